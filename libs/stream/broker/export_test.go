package broker

// Generation is the one that the member is in.
func (m *Member) Generation() int32 { return m.current().generation }

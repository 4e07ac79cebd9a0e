package broker

// Generation is the one that the member is in.
func (m *Member) Generation() int32 { return m.current().generation }

// ReadFetched is readFetched of one topic, whose id is zero.
func ReadFetched(answer []byte, topic string) ([]Fetched, error) {
	got, _, err := readFetched(answer, map[topicID]string{{}: topic}, map[string][]PartitionOffset{topic: {{Topic: topic}}})
	return got, err
}

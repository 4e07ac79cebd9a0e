package step

// Envelope is envelope, for the tests.
type Envelope struct {
	MessageID, Shop, KeyID string
	EventTime              int64
	Imported               bool
	ImportID               string
	Sequence, NotBefore    int64
	Lines                  int64
}

// ReadEnvelope is readEnvelope, for the tests.
func ReadEnvelope(b []byte) (Envelope, error) {
	e, err := readEnvelope(b)
	return Envelope{e.messageID, e.shop, e.keyID, e.eventTime, e.imported, e.importID, e.sequence, e.notBefore, e.lines}, err
}

// Copied is how many of the facts that wait keep a copy of their headers.
func (p *Partition[S]) Copied() (n int) {
	for _, q := range p.facts {
		for _, w := range q.items {
			if w.headers != nil {
				n++
			}
		}
	}
	return n
}

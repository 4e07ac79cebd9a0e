package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// What an operator asks of a Kafka cluster, and no service does: encoded by hand,
// because the client library is behind a door of its own.

// request numbers of the protocol.
const (
	keyDeleteTopics = 20
	keyElectLeaders = 43
	keyReassign     = 45
	keyMetadata     = 3
	keyDeleteGroups = 42
	keyQuorum       = 55
)

// asker is a request being written.
type asker struct {
	b []byte
}

func (a *asker) int8(v int8)   { a.b = append(a.b, byte(v)) }
func (a *asker) int16(v int16) { a.b = binary.BigEndian.AppendUint16(a.b, uint16(v)) }
func (a *asker) int32(v int32) { a.b = binary.BigEndian.AppendUint32(a.b, uint32(v)) }
func (a *asker) text(s string) { a.int16(int16(len(s))); a.b = append(a.b, s...) }

// Of a flexible version: lengths plus one, tags behind.
func (a *asker) count(n int)         { a.b = binary.AppendUvarint(a.b, uint64(n)+1) }
func (a *asker) compact(s string)    { a.count(len(s)); a.b = append(a.b, s...) }
func (a *asker) tags()               { a.b = append(a.b, 0) }
func (a *asker) int32s(all ...int32) { a.count(len(all)); a.each(all) }
func (a *asker) each(all []int32) {
	for _, v := range all {
		a.int32(v)
	}
}

// exchange sends one request and returns the body of the answer.
func exchange(addr string, key, version int16, flexible bool, body []byte) ([]byte, error) {
	c, err := net.DialTimeout("tcp", addr, 3*time.Second)
	if err != nil {
		return nil, fmt.Errorf("ask the broker %s: %w", addr, err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	var a asker
	a.int16(key)
	a.int16(version)
	a.int32(1)
	a.int16(-1)
	if flexible {
		a.tags()
	}
	a.b = append(a.b, body...)
	if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(a.b))), a.b...)); err != nil {
		return nil, fmt.Errorf("ask the broker %s: %w", addr, err)
	}
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, fmt.Errorf("ask the broker %s: %w", addr, err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n < 4 || n > 8<<20 {
		return nil, fmt.Errorf("ask the broker %s: an answer of %d bytes", addr, n)
	}
	answer := make([]byte, n)
	if _, err := io.ReadFull(c, answer); err != nil {
		return nil, fmt.Errorf("ask the broker %s: %w", addr, err)
	}
	answer = answer[4:] // correlation
	if flexible {
		answer = answer[1:] // no tags
	}
	return answer, nil
}

// DeleteTopic deletes a topic for good.
func DeleteTopic(addr, topic string) error {
	var a asker
	a.int32(1)
	a.text(topic)
	a.int32(10_000)
	answer, err := exchange(addr, keyDeleteTopics, 1, false, a.b)
	if err != nil {
		return err
	}
	// throttle, count, name, code
	if at := 4 + 4 + 2 + len(topic); len(answer) >= at+2 {
		if code := int16(binary.BigEndian.Uint16(answer[at:])); code != 0 {
			return fmt.Errorf("delete topic %s: error %d", topic, code)
		}
		return nil
	}
	return errors.New("delete topic: short answer")
}

// DeleteGroup deletes a consumer group with all that it has committed; it must
// have no members.
func DeleteGroup(addr, group string) error {
	var a asker
	a.int32(1)
	a.text(group)
	answer, err := exchange(addr, keyDeleteGroups, 1, false, a.b)
	if err != nil {
		return err
	}
	if at := 4 + 4 + 2 + len(group); len(answer) >= at+2 {
		if code := int16(binary.BigEndian.Uint16(answer[at:])); code != 0 {
			return fmt.Errorf("delete group %s: error %d", group, code)
		}
		return nil
	}
	return errors.New("delete group: short answer")
}

// PreferLeader makes the broker node the first of a partition's replicas, which
// are 1 to n, and lets it lead.
func PreferLeader(addr, topic string, partitions, node, n int32) error {
	order := make([]int32, n)
	for i := range n {
		order[i] = (node-1+i)%n + 1
	}
	var a asker
	a.int32(10_000)
	a.count(1)
	a.compact(topic)
	a.count(int(partitions))
	for p := range partitions {
		a.int32(p)
		a.int32s(order...)
		a.tags()
	}
	a.tags()
	a.tags()
	if _, err := exchange(addr, keyReassign, 0, true, a.b); err != nil {
		return err
	}
	a = asker{}
	a.int8(0) // the preferred one
	a.int32(1)
	a.text(topic)
	a.int32(partitions)
	for p := range partitions {
		a.int32(p)
	}
	a.int32(10_000)
	_, err := exchange(addr, keyElectLeaders, 1, false, a.b)
	return err
}

// Controller is the node whose controller is the active one. What metadata calls
// the controller is any broker.
func Controller(addr string) (int32, error) {
	var a asker
	a.count(1)
	a.compact("__cluster_metadata")
	a.count(1)
	a.int32(0)
	a.tags()
	a.tags()
	a.tags()
	answer, err := exchange(addr, keyQuorum, 0, true, a.b)
	if err != nil {
		return 0, err
	}
	r := cursor{b: answer}
	if code := r.int16(); code != 0 {
		return 0, fmt.Errorf("ask for the controller: error %d", code)
	}
	r.skip(1) // one topic
	r.skip(1 + len("__cluster_metadata"))
	r.skip(1) // one partition
	r.int32()
	if code := r.int16(); code != 0 {
		return 0, fmt.Errorf("ask for the controller: error %d", code)
	}
	leader := r.int32()
	if r.short || leader < 1 {
		return 0, fmt.Errorf("ask for the controller: node %d", leader)
	}
	return leader, nil
}

// Replicas is how the partitions of all topics stand.
type Replicas struct {
	Partitions int
	Short      int // with fewer replicas in sync than there are
	Unled      int
}

// Standing asks a broker for all partitions.
func Standing(addr string) (Replicas, error) {
	var s Replicas
	var a asker
	a.int32(-1) // all topics
	answer, err := exchange(addr, keyMetadata, 1, false, a.b)
	if err != nil {
		return s, err
	}
	r := cursor{b: answer}
	for range r.int32() { // brokers
		r.int32()
		r.text()
		r.int32()
		r.text()
	}
	r.int32() // called the controller
	for range r.int32() {
		r.int16()
		r.text()
		r.skip(1)
		for range r.int32() {
			r.int16()
			r.int32()
			leader := r.int32()
			replicas := r.int32()
			r.skip(4 * int(replicas))
			synced := r.int32()
			r.skip(4 * int(synced))
			s.Partitions++
			if synced < replicas {
				s.Short++
			}
			if leader < 0 {
				s.Unled++
			}
		}
	}
	if r.short {
		return s, errors.New("metadata: short answer")
	}
	return s, nil
}

// cursor reads an answer.
type cursor struct {
	b     []byte
	short bool
}

func (c *cursor) skip(n int) []byte {
	if n < 0 || n > len(c.b) {
		c.b, c.short = nil, true
		return make([]byte, 8)
	}
	got := c.b[:n]
	c.b = c.b[n:]
	return got
}

func (c *cursor) int16() int16 { return int16(binary.BigEndian.Uint16(c.skip(2))) }

func (c *cursor) int32() int32 {
	v := int32(binary.BigEndian.Uint32(c.skip(4)))
	if c.short {
		return 0
	}
	return v
}

func (c *cursor) text() {
	if n := c.int16(); n > 0 {
		c.skip(int(n))
	}
}

package state

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// conn is one owner's connection, which speaks RESP2. An owner's write is one
// request of a few thousand arguments with one answer, so what is written and
// read here is all that the protocol is asked for: no retries, no pool, and
// nothing between the bytes of the step and those of the socket.
//
// Commands are collected, then sent together; their answers are read in the same
// order. It is not safe for concurrent use, and of no use after an error that is
// not a reply.
type conn struct {
	net  net.Conn
	in   *bufio.Reader
	out  []byte // commands that are not sent yet
	sent int    // of these: how many
	data []byte // where the strings of answers go
}

// reply is an answer of the server that says no.
type reply string

func (r reply) Error() string { return string(r) }

// dial opens a connection to a node, as the client would.
func dial(ctx context.Context, o *redis.Options, limit time.Duration) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	n, err := o.Dialer(ctx, o.Network, o.Addr)
	if err != nil {
		return nil, err
	}
	c := &conn{net: n, in: bufio.NewReaderSize(n, 64<<10)}
	switch {
	case o.Username != "":
		c.command("AUTH", o.Username, o.Password)
	case o.Password != "":
		c.command("AUTH", o.Password)
	}
	if o.DB != 0 {
		c.command("SELECT", strconv.Itoa(o.DB))
	}
	if c.sent > 0 {
		if err := c.ok(ctx, limit); err != nil {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

func (c *conn) close() { _ = c.net.Close() }

// command collects one command.
func (c *conn) command(args ...string) {
	c.begin(len(args))
	for _, a := range args {
		c.arg(a)
	}
}

// begin collects the head of a command of n arguments, its name being the
// first.
func (c *conn) begin(n int) {
	c.sent++
	c.out = append(strconv.AppendInt(append(c.out, '*'), int64(n), 10), '\r', '\n')
}

func (c *conn) arg(s string) {
	c.out = append(strconv.AppendInt(append(c.out, '$'), int64(len(s)), 10), '\r', '\n')
	c.out = append(append(c.out, s...), '\r', '\n')
}

func (c *conn) bytes(b []byte) {
	c.out = append(strconv.AppendInt(append(c.out, '$'), int64(len(b)), 10), '\r', '\n')
	c.out = append(append(c.out, b...), '\r', '\n')
}

// key is arg(prefix + name).
func (c *conn) key(prefix, name string) {
	c.out = append(strconv.AppendInt(append(c.out, '$'), int64(len(prefix)+len(name)), 10), '\r', '\n')
	c.out = append(append(append(c.out, prefix...), name...), '\r', '\n')
}

// most is how much memory a connection keeps for its next request.
const most = 4 << 20

// flush sends what was collected and says how many answers will come, until
// limit is over.
func (c *conn) flush(ctx context.Context, limit time.Duration) (answers int, err error) {
	answers, c.sent = c.sent, 0
	out := c.out
	if c.out = c.out[:0]; cap(c.out) > most {
		c.out = nil
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	deadline := time.Now().Add(limit)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := c.net.SetDeadline(deadline); err != nil {
		return 0, err
	}
	_, err = c.net.Write(out)
	return answers, err
}

// ok sends what was collected and wants no refusal.
func (c *conn) ok(ctx context.Context, limit time.Duration) error {
	n, err := c.flush(ctx, limit)
	if err != nil {
		return err
	}
	var refused error
	for range n {
		if err := c.skip(); err != nil {
			if no := reply(""); !errors.As(err, &no) {
				return err
			}
			refused = errors.Join(refused, err)
		}
	}
	return refused
}

var errProtocol = errors.New("not an answer of the RESP2 protocol")

// line reads the first line of an answer: its kind and the rest, valid until
// the next read.
func (c *conn) line() (kind byte, rest []byte, err error) {
	b, err := c.in.ReadSlice('\n')
	if err != nil {
		return 0, nil, err
	}
	if len(b) < 3 || b[len(b)-2] != '\r' {
		return 0, nil, fmt.Errorf("%w: %.40q", errProtocol, b)
	}
	return b[0], b[1 : len(b)-2], nil
}

func size(digits []byte) (int, error) {
	const largest = 512 << 20 // the server's limit of a string
	n, err := strconv.Atoi(string(digits))
	if err != nil || n < -1 || n > largest {
		return 0, fmt.Errorf("%w: length %.40q", errProtocol, digits)
	}
	return n, nil
}

// skip reads a whole answer; the error is a reply where it, or a part of it, is
// one.
func (c *conn) skip() error {
	kind, rest, err := c.line()
	if err != nil {
		return err
	}
	switch kind {
	case '+', ':':
		return nil
	case '-':
		return reply(rest)
	}
	n, err := size(rest)
	if err != nil {
		return err
	}
	switch kind {
	case '$':
		if n >= 0 {
			_, err = c.in.Discard(n + 2)
		}
		return err
	case '*':
		var refused error
		for range n {
			if err := c.skip(); err != nil {
				if no := reply(""); !errors.As(err, &no) {
					return err
				}
				refused = err
			}
		}
		return refused
	}
	return fmt.Errorf("%w: kind %q", errProtocol, kind)
}

// array reads the head of an array; -1 where it is null.
func (c *conn) array() (int, error) {
	kind, rest, err := c.line()
	switch {
	case err != nil:
		return 0, err
	case kind == '-':
		return 0, reply(rest)
	case kind != '*':
		return 0, fmt.Errorf("%w: kind %q, want an array", errProtocol, kind)
	}
	return size(rest)
}

// value reads a string; ok is false where it is null. It is the caller's.
func (c *conn) value() (b []byte, ok bool, err error) {
	kind, rest, err := c.line()
	switch {
	case err != nil:
		return nil, false, err
	case kind == '-':
		return nil, false, reply(rest)
	case kind != '$':
		return nil, false, fmt.Errorf("%w: kind %q, want a string", errProtocol, kind)
	}
	n, err := size(rest)
	if err != nil || n < 0 {
		return nil, false, err
	}
	// Cut out of large pieces: a partition is loaded in strings of a hundred
	// bytes.
	const piece = 64 << 10
	if n+2 > len(c.data) {
		c.data = make([]byte, max(n+2, piece))
	}
	b = c.data[: n+2 : n+2]
	c.data = c.data[n+2:]
	if _, err := io.ReadFull(c.in, b); err != nil {
		return nil, false, err
	}
	return b[:n:n], true, nil
}

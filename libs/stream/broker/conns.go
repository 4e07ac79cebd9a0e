package broker

import (
	"context"
	"net"
	"sync"
)

// conns are the connections that a client has open. kafka-go's transport closes
// those that are idle; one that waits for an answer nobody wants any more would
// outlive the client.
type conns struct {
	mu     sync.Mutex
	open   map[*conn]struct{}
	closed bool
}

// conn is a connection that its client knows of.
type conn struct {
	net.Conn
	of *conns
}

// dialer dials and remembers.
func (c *conns) dialer(dial func(ctx context.Context, network, address string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		nc, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		one := &conn{nc, c}
		c.mu.Lock()
		closed := c.closed
		if !closed {
			c.open[one] = struct{}{}
		}
		c.mu.Unlock()
		if closed {
			nc.Close()
			return nil, net.ErrClosed
		}
		return one, nil
	}
}

// Close closes the connection.
func (c *conn) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// close closes all connections, and those to come.
func (c *conns) close() {
	c.mu.Lock()
	c.closed = true
	open := c.open
	c.open = nil
	c.mu.Unlock()
	for one := range open {
		one.Conn.Close()
	}
}

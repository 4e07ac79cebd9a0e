package lab

import (
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// Trouble is what a [Proxy] does to the bytes that pass. The zero value is none.
type Trouble struct {
	Delay  time.Duration // each piece, each way, waits so long
	Hold   bool          // nothing passes, and nobody is told
	Refuse bool          // new connections are closed at once
	Eat    bool          // requests pass, the answer is eaten and the connection reset
	Cut    bool          // a part of the next request passes, then the connection is reset
	Late   time.Duration // the client is reset at once, its request arrives so much later
}

// Proxy passes TCP connections on, and makes trouble. It is safe for concurrent
// use.
type Proxy struct {
	Addr string // where it listens

	listener net.Listener
	running  sync.WaitGroup
	stop     chan struct{} // closed at the end

	mu      sync.Mutex
	to      string
	trouble Trouble
	changed chan struct{} // closed when trouble changes
	links   map[*link]struct{}
}

// link is one connection and its other half.
type link struct {
	client, server net.Conn
	once           sync.Once
}

// NewProxy starts a proxy to an address; "" where [Proxy.Redirect] follows.
func NewProxy(t testing.TB, to string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), listener: l, stop: make(chan struct{}), to: to, changed: make(chan struct{}), links: map[*link]struct{}{}}
	p.running.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *Proxy) close() {
	close(p.stop)
	p.listener.Close()
	p.Reset()
	p.running.Wait()
}

// Redirect sends new connections somewhere else.
func (p *Proxy) Redirect(to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = to
}

// Make makes trouble until something else is made of it.
func (p *Proxy) Make(t Trouble) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trouble = t
	close(p.changed)
	p.changed = make(chan struct{})
}

// Reset resets all connections, so that both sides get an error.
func (p *Proxy) Reset() {
	p.mu.Lock()
	links := make([]*link, 0, len(p.links))
	for l := range p.links {
		links = append(links, l)
	}
	p.mu.Unlock()
	for _, l := range links {
		l.reset()
	}
}

func (p *Proxy) now() (Trouble, chan struct{}, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.trouble, p.changed, p.to
}

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		trouble, _, to := p.now()
		if trouble.Refuse {
			abort(c)
			continue
		}
		p.running.Go(func() { p.serve(c, to) })
	}
}

func (p *Proxy) serve(client net.Conn, to string) {
	server, err := net.DialTimeout("tcp", to, 2*time.Second)
	if err != nil {
		abort(client)
		return
	}
	l := &link{client: client, server: server}
	p.mu.Lock()
	p.links[l] = struct{}{}
	p.mu.Unlock()
	select {
	case <-p.stop:
		l.reset()
	default:
	}
	var both sync.WaitGroup
	both.Go(func() { p.pass(l, client, server, true) })
	both.Go(func() { p.pass(l, server, client, false) })
	both.Wait()
	l.reset()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// pass copies one way until an end is reached.
func (p *Proxy) pass(l *link, from, to net.Conn, request bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && !p.piece(l, to, buf[:n], request) {
			l.reset()
			return
		}
		if err != nil {
			if request {
				// The client has said all: answers may still come.
				if c, ok := to.(*net.TCPConn); ok {
					_ = c.CloseWrite()
				}
				return
			}
			l.client.Close()
			return
		}
	}
}

// piece passes some bytes on; false where the connection has to end.
func (p *Proxy) piece(l *link, to net.Conn, b []byte, request bool) bool {
	for {
		trouble, changed, _ := p.now()
		if trouble.Hold {
			select {
			case <-changed:
				continue
			case <-p.stop:
				return false
			}
		}
		if trouble.Delay > 0 && !p.sleep(trouble.Delay) {
			return false
		}
		switch {
		case trouble.Eat && !request:
			return false
		case trouble.Cut && request:
			_, _ = to.Write(b[:rand.IntN(len(b))])
			return false
		case trouble.Late > 0 && request:
			abort(l.client)
			if !p.sleep(trouble.Late) {
				return false
			}
			_, _ = to.Write(b)
			p.sleep(100 * time.Millisecond) // closed at once, it might not be read
			return false
		}
		_, err := to.Write(b)
		return err == nil
	}
}

// sleep tells whether the time has passed; false where the proxy has ended.
func (p *Proxy) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-p.stop:
		return false
	}
}

func (l *link) reset() {
	l.once.Do(func() {
		abort(l.client)
		abort(l.server)
	})
}

// abort closes a connection with a reset in place of a farewell.
func abort(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	c.Close()
}

// pause is how often something is looked at that will be so in a moment.
func pause() { time.Sleep(50 * time.Millisecond) }

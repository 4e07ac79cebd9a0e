package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers every line with itself, and tells what it got.
func echo(t *testing.T) (addr string, got chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got = make(chan string, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			lines := bufio.NewReader(c)
			for {
				line, err := lines.ReadString('\n')
				if line != "" {
					got <- line
				}
				if err != nil {
					break
				}
				fmt.Fprint(c, line)
			}
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String(), got
}

// Each trouble is told apart by what arrives and what is answered.
func TestProxy(t *testing.T) {
	for _, c := range []struct {
		name              string
		trouble           Trouble
		arrives, answered bool
	}{
		{"none", Trouble{}, true, true},
		{"delay", Trouble{Delay: 10 * time.Millisecond}, true, true},
		{"eaten answer", Trouble{Eat: true}, true, false},
		{"late request", Trouble{Late: 20 * time.Millisecond}, true, false},
		{"refused", Trouble{Refuse: true}, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			to, got := echo(t)
			p := NewProxy(t, to)
			p.Make(c.trouble)
			answer, err := ask(p.Addr, "hello\n")
			if c.arrives {
				if line := <-got; line != "hello\n" {
					t.Errorf("%q arrived", line)
				}
			}
			if (err == nil && answer == "hello\n") != c.answered {
				t.Errorf("answered %q, %v", answer, err)
			}
		})
	}
	t.Run("cut request", func(t *testing.T) {
		to, _ := echo(t)
		p := NewProxy(t, to)
		p.Make(Trouble{Cut: true})
		if answer, err := ask(p.Addr, "hello\n"); err == nil {
			t.Errorf("answered %q", answer)
		}
	})
	t.Run("held until it is not", func(t *testing.T) {
		to, got := echo(t)
		p := NewProxy(t, to)
		p.Make(Trouble{Hold: true})
		answered := make(chan error, 1)
		go func() {
			_, err := ask(p.Addr, "hello\n")
			answered <- err
		}()
		p.Make(Trouble{})
		<-got
		if err := <-answered; err != nil {
			t.Error(err)
		}
	})
	t.Run("reset", func(t *testing.T) {
		to, got := echo(t)
		p := NewProxy(t, to)
		c, err := net.Dial("tcp", p.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintln(c, "hello")
		<-got
		p.Reset()
		if _, err := io.ReadAll(c); err == nil {
			t.Error("the connection has ended with a farewell")
		}
	})
}

func ask(addr, line string) (string, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := fmt.Fprint(c, line); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(c).ReadString('\n')
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return answer, err
}

package state_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream/step"
)

// scripted is a store that answers each request with the next of what it was
// given, and then hangs up.
func scripted(t *testing.T, answers ...string) state.Config {
	t.Helper()
	cfg := state.DefaultConfig()
	cfg.Dial = func(context.Context, string, string) (net.Conn, error) {
		mine, theirs := net.Pipe()
		done := make(chan struct{})
		t.Cleanup(func() { <-done })
		t.Cleanup(func() { mine.Close() })
		go func() {
			defer close(done)
			defer theirs.Close()
			request := make([]byte, 1<<16)
			for _, a := range answers {
				// Every request of an owner ends with GET of the fence.
				for all := []byte(nil); !bytes.HasSuffix(all, []byte("GET\r\n$4\r\n{p}f\r\n")); {
					n, err := theirs.Read(request)
					if err != nil {
						return
					}
					all = append(all, request[:n]...)
				}
				if _, err := io.WriteString(theirs, a); err != nil {
					return
				}
			}
		}()
		return mine, nil
	}
	return cfg
}

func TestAnswersAreJudged(t *testing.T) {
	const armed = "+OK\r\n$1\r\na\r\n"
	for name, c := range map[string]struct {
		answer  string
		outcome step.Outcome
		current string
		says    string
	}{
		"written":                    {"+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n+OK\r\n$1\r\nb\r\n", step.Applied, "b", ""},
		"touched":                    {"+OK\r\n+QUEUED\r\n*-1\r\n+OK\r\n$1\r\nc\r\n", step.Lost, "c", ""},
		"touched, and gone":          {"+OK\r\n+QUEUED\r\n*-1\r\n+OK\r\n$-1\r\n", step.Lost, "", ""},
		"no longer a master":         {"+OK\r\n-READONLY You can't write\r\n-EXECABORT\r\n+OK\r\n$1\r\na\r\n", step.NotWritten, "", "READONLY"},
		"full":                       {"+OK\r\n-OOM command not allowed\r\n-EXECABORT\r\n+OK\r\n$1\r\na\r\n", step.Refused, "", "OOM"},
		"refused, then cut":          {"+OK\r\n-READONLY You can't write\r\n", step.NotWritten, "", "READONLY"},
		"a part is refused":          {"+OK\r\n+QUEUED\r\n*1\r\n-WRONGTYPE no\r\n+OK\r\n$1\r\na\r\n", step.Refused, "", "WRONGTYPE"},
		"cut before the end":         {"+OK\r\n+QUEUED\r\n", step.Ambiguous, "", "EOF"},
		"cut within the end":         {"+OK\r\n+QUEUED\r\n*1\r\n", step.Ambiguous, "", "EOF"},
		"written, not armed again":   {"+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n-LOADING\r\n-LOADING\r\n", step.Ambiguous, "", "LOADING"},
		"written, then cut":          {"+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n", step.Ambiguous, "", "EOF"},
		"another protocol":           {"HTTP/1.1 400 Bad Request\r\n\r\n", step.Ambiguous, "", "RESP2"},
		"a string longer than any":   {"+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n+OK\r\n$99999999999\r\n", step.Ambiguous, "", "RESP2"},
		"a transaction is not begun": {"-LOADING\r\n-LOADING\r\n-ERR EXEC without MULTI\r\n-LOADING\r\n-LOADING\r\n", step.NotWritten, "", "LOADING"},
	} {
		t.Run(name, func(t *testing.T) {
			p := open(t, scripted(t, armed, c.answer)).Partition("p", state.PerKey)
			defer p.Close()
			if f := arm(t, p); f != "a" {
				t.Fatalf("armed with %q", f)
			}
			o, current, err := p.Apply(t.Context(), step.Write{Base: "a", Target: "b"})
			if o != c.outcome || current != c.current || (err == nil) != (c.says == "") || (err != nil && !strings.Contains(err.Error(), c.says)) {
				t.Errorf("outcome %d, fence %q, %v; want %d, %q and %q", o, current, err, c.outcome, c.current, c.says)
			}
			if o == step.Applied || o == step.Lost {
				return
			}
			if o, _, err := p.Apply(t.Context(), step.Write{Base: "a", Target: "b"}); o != step.NotWritten || err == nil {
				t.Errorf("a connection that went wrong was used again: outcome %d, %v", o, err)
			}
		})
	}
}

func TestArmingThatIsRefusedIsAnError(t *testing.T) {
	for _, answer := range []string{"-NOPERM no\r\n$1\r\na\r\n", "+OK\r\n-WRONGTYPE no\r\n", "+OK\r\n"} {
		p := open(t, scripted(t, answer)).Partition("p", state.PerKey)
		if f, err := p.Arm(t.Context()); err == nil {
			t.Errorf("answer %q arms with %q", answer, f)
		}
	}
}

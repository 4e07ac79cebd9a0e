package web

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime/debug"
	"strings"
	"time"

	"github.com/sillage-io/sillage/libs/service"
)

// Config is where a server listens.
type Config struct {
	Listen   string `yaml:"listen" usage:"host:port to listen on"`
	CertFile string `yaml:"cert-file" usage:"PEM file of the server's certificate; empty: HTTP in clear"`
	KeyFile  string `yaml:"key-file" usage:"PEM file of the server's key"`
}

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		errs = append(errs, fmt.Errorf("listen: %q is not host:port", c.Listen))
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		errs = append(errs, errors.New("cert-file and key-file belong together"))
	}
	return errors.Join(errs...)
}

// Server is an HTTP server as a part of a process.
type Server struct {
	name     string
	listener net.Listener
	server   *http.Server
	tls      bool
}

// Listen takes the address; flag is what the operator changes where it is
// taken. Requests are served by Component's Run.
func Listen(name, flag string, cfg Config, handler http.Handler, log *slog.Logger) (*Server, error) {
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("%s: listen on %s: %w (choose another one with --%s)", name, cfg.Listen, err, flag)
	}
	s := &Server{name: name, listener: l, tls: cfg.CertFile != ""}
	s.server = &http.Server{
		Handler: recovered(handler, log), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	if s.tls {
		cert, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("%s: read the certificate: %w", name, err)
		}
		s.server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}
	}
	return s, nil
}

// Addr is the address in use.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// URL is where the server is found.
func (s *Server) URL() string {
	if s.tls {
		return "https://" + s.Addr()
	}
	return "http://" + s.Addr()
}

// Component serves until it is stopped; then it answers what it has begun.
func (s *Server) Component() service.Component {
	return service.Component{Name: s.name, Run: func(ctx context.Context) error {
		// Streams end with the process, not with their clients.
		s.server.BaseContext = func(net.Listener) context.Context { return ctx }
		served := make(chan error, 1)
		go func() {
			if s.tls {
				served <- s.server.ServeTLS(s.listener, "", "")
				return
			}
			served <- s.server.Serve(s.listener)
		}()
		select {
		case err := <-served:
			return fmt.Errorf("serve: %w", err)
		case <-ctx.Done():
		}
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err := s.server.Shutdown(drain)
		if err != nil {
			err = errors.Join(err, s.server.Close())
		}
		return errors.Join(err, stopped(<-served))
	}}
}

// stopped is what a server said at its end, unless that is what ends it.
func stopped(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// recovered answers 500 where a handler panics, and says where.
func recovered(h http.Handler, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler { //nolint:errorlint // the value itself is what the library throws
				panic(p)
			}
			log.Error("handler panicked", slog.String("path", r.URL.Path), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			http.Error(w, "internal error", http.StatusInternalServerError)
		}()
		h.ServeHTTP(w, r)
	})
}

// Admin serves what operators ask. Check is a service.Group's; metrics may be
// nil.
func Admin(check func(context.Context) (bool, []service.Health), metrics http.Handler) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		ready, parts := check(ctx)
		w.Header().Set("Content-Type", "application/json")
		if !ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"ready": ready, "parts": parts})
	})
	if metrics != nil {
		mux.Handle("GET /metrics", metrics)
	}
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(Version() + "\n")) })
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// Version is the build's version and commit, as the Go tool noted them.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	version := info.Main.Version
	var b strings.Builder
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			b.WriteString(" " + s.Value[:min(12, len(s.Value))])
		}
		if s.Key == "vcs.modified" && s.Value == "true" {
			b.WriteString(" modified")
		}
	}
	version += b.String()
	return version + " " + info.GoVersion
}

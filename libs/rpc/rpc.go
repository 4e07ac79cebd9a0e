package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/sillage-io/sillage/libs/config"
	"github.com/sillage-io/sillage/libs/service"
)

// Config is where a server listens, and whom it trusts.
type Config struct {
	Listen       string `yaml:"listen" usage:"host:port to listen on"`
	CertFile     string `yaml:"cert-file" usage:"PEM file of the server's certificate; empty: in clear"`
	KeyFile      string `yaml:"key-file" usage:"PEM file of the server's key"`
	ClientCAFile string `yaml:"client-ca-file" usage:"PEM file of the authorities whose clients may call; empty: all may"`
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
	if c.ClientCAFile != "" && c.CertFile == "" {
		errs = append(errs, errors.New("client-ca-file: needs a server certificate"))
	}
	return errors.Join(errs...)
}

// Server is a gRPC server as a part of a process.
type Server struct {
	*grpc.Server

	name     string
	listener net.Listener
	health   *health.Server
}

// Listen takes the address; flag is what the operator changes where it is
// taken. Services are registered on the embedded grpc.Server before Run.
func Listen(name, flag string, cfg Config, log *slog.Logger, options ...grpc.ServerOption) (*Server, error) {
	creds := insecure.NewCredentials()
	if cfg.CertFile != "" {
		c, err := serverTLS(cfg)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		creds = credentials.NewTLS(c)
	}
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("%s: listen on %s: %w (choose another one with --%s)", name, cfg.Listen, err, flag)
	}
	s := &Server{name: name, listener: l, health: health.NewServer()}
	s.Server = grpc.NewServer(append([]grpc.ServerOption{
		grpc.Creds(creds),
		grpc.MaxRecvMsgSize(1 << 20),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (res any, err error) {
			defer recovered(log, info.FullMethod, &err)
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
			defer recovered(log, info.FullMethod, &err)
			return next(srv, stream)
		}),
	}, options...)...)
	healthv1.RegisterHealthServer(s.Server, s.health)
	reflection.Register(s.Server)
	return s, nil
}

func recovered(log *slog.Logger, method string, err *error) {
	if p := recover(); p != nil {
		log.Error("method panicked", slog.String("method", method), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
		*err = status.Error(codes.Internal, "internal error")
	}
}

func serverTLS(cfg Config) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}
	if cfg.ClientCAFile != "" {
		if c.ClientCAs, err = config.Authorities(cfg.ClientCAFile); err != nil {
			return nil, err
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return c, nil
}

// Addr is the address in use.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Component serves until it is stopped. Then it answers what it has begun for
// a while, and ends streams.
func (s *Server) Component() service.Component {
	return service.Component{Name: s.name, Run: func(ctx context.Context) error {
		served := make(chan error, 1)
		go func() { served <- s.Serve(s.listener) }()
		select {
		case err := <-served:
			return err
		case <-ctx.Done():
		}
		s.health.Shutdown()
		// Watches never end by themselves: what is short gets its time.
		cut := time.AfterFunc(2*time.Second, s.Stop)
		s.GracefulStop()
		cut.Stop()
		return <-served
	}}
}

// ClientConfig is where to find a server, and how to speak with it.
type ClientConfig struct {
	Addr string
	TLS  config.TLS
}

// Dial makes a client; calls that find no server are tried again for a moment.
func Dial(cfg ClientConfig) (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	encryption, err := cfg.TLS.Load()
	if err != nil {
		return nil, err
	}
	if encryption != nil {
		creds = credentials.NewTLS(encryption)
	}
	conn, err := grpc.NewClient(cfg.Addr, grpc.WithTransportCredentials(creds), grpc.WithDefaultServiceConfig(retries),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", cfg.Addr, err)
	}
	return conn, nil
}

const retries = `{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 4, "initialBackoff": "0.05s", "maxBackoff": "1s", "backoffMultiplier": 3, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`

package rpc_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/sillage-io/sillage/libs/config"
	"github.com/sillage-io/sillage/libs/rpc"
	recommenderv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/recommender/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type panicking struct {
	recommenderv1.UnimplementedRecommenderServiceServer
}

func (panicking) Recommend(context.Context, *recommenderv1.RecommendRequest) (*recommenderv1.RecommendResponse, error) {
	panic("oh")
}

func serve(t *testing.T, cfg rpc.Config) (addr string, stop func()) {
	t.Helper()
	cfg.Listen = "127.0.0.1:0"
	s, err := rpc.Listen("test", "test.listen", cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	recommenderv1.RegisterRecommenderServiceServer(s, panicking{})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Component().Run(ctx); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	stop = func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	return s.Addr(), stop
}

func dial(t *testing.T, cfg rpc.ClientConfig) *grpc.ClientConn {
	t.Helper()
	c, err := rpc.Dial(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestPanicIsAnInternalErrorWithoutDetail(t *testing.T) {
	addr, _ := serve(t, rpc.Config{})
	_, err := recommenderv1.NewRecommenderServiceClient(dial(t, rpc.ClientConfig{Addr: addr})).Recommend(t.Context(), &recommenderv1.RecommendRequest{})
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "oh") {
		t.Errorf("%v", err)
	}
}

func TestStreamsEndWhenTheProcessDoes(t *testing.T) {
	addr, stop := serve(t, rpc.Config{})
	w, err := healthv1.NewHealthClient(dial(t, rpc.ClientConfig{Addr: addr})).Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := w.Recv(); err != nil || r.Status != healthv1.HealthCheckResponse_SERVING {
		t.Fatalf("%v, %v", r, err)
	}
	stop()
	for {
		r, err := w.Recv()
		if err != nil {
			break
		}
		if r.Status != healthv1.HealthCheckResponse_NOT_SERVING {
			t.Errorf("after the end: %v", r)
		}
	}
}

func TestTLSAndClientCertificates(t *testing.T) {
	cert, key := selfSigned(t)
	server := rpc.Config{CertFile: cert, KeyFile: key, ClientCAFile: cert}
	addr, _ := serve(t, server)
	for _, test := range []struct {
		name   string
		client rpc.ClientConfig
		ok     bool
	}{
		{"right", rpc.ClientConfig{TLS: config.TLS{Enabled: true, CAFile: cert, CertFile: cert, KeyFile: key, ServerName: "localhost"}}, true},
		{"no client certificate", rpc.ClientConfig{TLS: config.TLS{Enabled: true, CAFile: cert, ServerName: "localhost"}}, false},
		{"unknown authority", rpc.ClientConfig{TLS: config.TLS{Enabled: true, CertFile: cert, KeyFile: key, ServerName: "localhost"}}, false},
		{"in clear", rpc.ClientConfig{}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.client.Addr = addr
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			_, err := healthv1.NewHealthClient(dial(t, test.client)).Check(ctx, &healthv1.HealthCheckRequest{})
			if (err == nil) != test.ok {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestTakenAddressNamesTheFlag(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = rpc.Listen("grpc", "grpc.listen", rpc.Config{Listen: l.Addr().String()}, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "--grpc.listen") {
		t.Errorf("%v", err)
	}
}

func selfSigned(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

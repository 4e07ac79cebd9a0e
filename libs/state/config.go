package state

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"crypto/tls"
	"crypto/x509"
	"os"
)

// Config says where the store is and how to speak with it.
type Config struct {
	Addrs    []string      `yaml:"addrs" usage:"host:port of Redis or Valkey; several for a cluster or for sentinels"`
	Cluster  bool          `yaml:"cluster" usage:"the addresses are nodes of a cluster"`
	Master   string        `yaml:"master" usage:"name of the master that the addresses, as sentinels, know; empty: none"`
	User     string        `yaml:"user" usage:"user name (ACL)"`
	Password string        `yaml:"password" usage:"password" secret:"true"`
	DB       int           `yaml:"db" usage:"database number"`
	TLS      TLS           `yaml:"tls"`
	Buckets  int           `yaml:"buckets" usage:"hashes that the entities of a new partition are spread over; 32 entities in each are densest"`
	Timeout  time.Duration `yaml:"timeout" usage:"how long one answer may take"`

	// Dial replaces the network, in tests.
	Dial func(ctx context.Context, network, address string) (net.Conn, error) `yaml:"-"`
}

// TLS is how connections are encrypted.
type TLS struct {
	Enabled    bool   `yaml:"enabled" usage:"encrypt connections"`
	CAFile     string `yaml:"ca-file" usage:"PEM file of the authorities to trust; empty: the system's"`
	CertFile   string `yaml:"cert-file" usage:"PEM file of this client's certificate"`
	KeyFile    string `yaml:"key-file" usage:"PEM file of this client's key"`
	ServerName string `yaml:"server-name" usage:"name expected in the server's certificate; empty: the host dialled"`
}

// DefaultConfig is a store on this machine, in clear.
func DefaultConfig() Config {
	return Config{Addrs: []string{"127.0.0.1:6379"}, Buckets: 512, Timeout: 5 * time.Second}
}

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	if len(c.Addrs) == 0 {
		errs = append(errs, errors.New("addrs: none given"))
	}
	for _, a := range c.Addrs {
		if _, _, err := net.SplitHostPort(a); err != nil {
			errs = append(errs, fmt.Errorf("addrs: %q is not host:port", a))
		}
	}
	if c.Cluster && c.Master != "" {
		errs = append(errs, errors.New("cluster and master: a cluster has no sentinels"))
	}
	if c.Cluster && c.DB != 0 {
		errs = append(errs, errors.New("db: a cluster has only database 0"))
	}
	if !c.Cluster && c.Master == "" && len(c.Addrs) > 1 {
		errs = append(errs, errors.New("addrs: several, but neither cluster nor master says what they are"))
	}
	if c.Buckets < 1 || c.Buckets > 1<<20 {
		errs = append(errs, fmt.Errorf("buckets: %d is not between 1 and 1048576", c.Buckets))
	}
	if c.Timeout <= 0 {
		errs = append(errs, fmt.Errorf("timeout: %v is not positive", c.Timeout))
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		errs = append(errs, errors.New("tls: cert-file and key-file belong together"))
	}
	if !c.TLS.Enabled && (c.TLS.CAFile != "" || c.TLS.CertFile != "") {
		errs = append(errs, errors.New("tls: files are given, but tls.enabled is false"))
	}
	return errors.Join(errs...)
}

func (t TLS) load() (*tls.Config, error) {
	if !t.Enabled {
		return nil, nil //nolint:nilnil // no TLS is a configuration, too
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read authorities: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read authorities: %s holds no certificate", t.CAFile)
		}
	}
	if t.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read client certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c, nil
}

// client opens what the configuration describes.
func (c Config) client() (redis.UniversalClient, error) {
	encryption, err := c.TLS.load()
	if err != nil {
		return nil, err
	}
	o := &redis.UniversalOptions{
		Addrs: c.Addrs, MasterName: c.Master, IsClusterMode: c.Cluster, DB: c.DB,
		Username: c.User, Password: c.Password, TLSConfig: encryption, Dialer: c.Dial,
		Protocol: 2, DisableIdentity: true,
		// Who tries again is the step: a write repeated by the library would
		// be written twice.
		MaxRetries:               -1,
		ContextTimeoutEnabled:    true,
		DialTimeout:              min(c.Timeout, 3*time.Second),
		ReadTimeout:              c.Timeout,
		WriteTimeout:             c.Timeout,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	return redis.NewUniversalClient(o), nil
}

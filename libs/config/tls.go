package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// TLS is how a client's connections are encrypted, for whatever it speaks with.
type TLS struct {
	Enabled    bool   `yaml:"enabled" usage:"encrypt connections"`
	CAFile     string `yaml:"ca-file" usage:"PEM file of the authorities to trust; empty: the system's"`
	CertFile   string `yaml:"cert-file" usage:"PEM file of this client's certificate"`
	KeyFile    string `yaml:"key-file" usage:"PEM file of this client's key"`
	ServerName string `yaml:"server-name" usage:"name expected in the server's certificate; empty: the host dialled"`
}

// Validate reports all mistakes.
func (t TLS) Validate() error {
	var errs []error
	if (t.CertFile == "") != (t.KeyFile == "") {
		errs = append(errs, errors.New("tls: cert-file and key-file belong together"))
	}
	if !t.Enabled && (t.CAFile != "" || t.CertFile != "") {
		errs = append(errs, errors.New("tls: files are given, but tls.enabled is false"))
	}
	return errors.Join(errs...)
}

// Load reads the certificates and makes a configuration; nil where TLS is off.
func (t TLS) Load() (*tls.Config, error) {
	if !t.Enabled {
		return nil, nil //nolint:nilnil // no TLS is a configuration, too
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		var err error
		if c.RootCAs, err = Authorities(t.CAFile); err != nil {
			return nil, err
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

// Authorities reads the certificates of those who may sign others'.
func Authorities(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read authorities: %s holds no certificate", file)
	}
	return pool, nil
}

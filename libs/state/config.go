package state

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/sillage-io/sillage/libs/config"
)

// Config says where the store is and how to speak with it.
type Config struct {
	Addrs    []string      `yaml:"addrs" usage:"host:port of Redis or Valkey; several for a cluster or for sentinels"`
	Cluster  bool          `yaml:"cluster" usage:"the addresses are nodes of a cluster"`
	Master   string        `yaml:"master" usage:"name of the master that the addresses, as sentinels, know; empty: none"`
	User     string        `yaml:"user" usage:"user name (ACL)"`
	Password string        `yaml:"password" usage:"password" secret:"true"`
	DB       int           `yaml:"db" usage:"database number"`
	TLS      config.TLS    `yaml:"tls"`
	Buckets  int           `yaml:"buckets" usage:"hashes that the entities of a new partition are spread over; 32 entities in each are densest"`
	Timeout  time.Duration `yaml:"timeout" usage:"how long one answer may take"`

	// Dial replaces the network, in tests.
	Dial func(ctx context.Context, network, address string) (net.Conn, error) `yaml:"-"`
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
	errs = append(errs, c.TLS.Validate())
	return errors.Join(errs...)
}

// readers is how many connections the readers of a process share, at most. An
// owner has one of its own.
const readers = 64

// client opens what the configuration describes.
func (c Config) client() (redis.UniversalClient, error) {
	encryption, err := c.TLS.Load()
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
		PoolSize:                 readers,
		ContextTimeoutEnabled:    true,
		DialTimeout:              min(c.Timeout, 3*time.Second),
		ReadTimeout:              c.Timeout,
		WriteTimeout:             c.Timeout,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	return redis.NewUniversalClient(o), nil
}

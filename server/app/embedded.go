package app

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"go.uber.org/zap"

	"certctl/server/config"

	"certctl/server/pg/download"
	"certctl/server/pg/local"
	"certctl/server/seal"
	"certctl/server/store"
	"certctl/server/web"
)

// Embedded is a PostgreSQL that this process started for itself.
type Embedded struct {
	Server    *local.Server
	state     string
	madeToken bool // the bootstrap token is the one in the state's file
}

// The files of an embedded server's state, which nobody else can read.
const (
	keyFile       = "encryption.key"
	tokenFile     = "bootstrap-token"
	tlsCertFile   = "tls.pem"
	tlsKeyFile    = "tls.key"
	databaseNamed = "postgres"
)

// Embed starts a PostgreSQL in dir, the default one if it is empty, and
// completes settings with what belongs to it: its address, and keys that are
// made once and kept beside the data.
func Embed(ctx context.Context, settings config.Values, dir string, log *zap.Logger) (*Embedded, error) {
	for _, key := range []*config.Key[string]{config.DatabaseURL, config.MigrateDatabaseURL} {
		if key.In(settings) != "" {
			return nil, fmt.Errorf("%s is set, and --embedded starts a database of its own; choose one", key.Name)
		}
	}
	o := local.Options{Dir: dir}
	if _, _, err := local.Find(); errors.Is(err, local.ErrNotInstalled) {
		log.Info("no PostgreSQL is installed here; fetching its binaries")
		cache, errCache := os.UserCacheDir()
		if errCache != nil {
			return nil, errors.Join(err, errCache)
		}
		if o.Bin, err = download.Binaries(ctx, filepath.Join(cache, "certctl"), ""); err != nil {
			return nil, err
		}
	}
	server, err := local.Start(ctx, o)
	if err != nil {
		return nil, err
	}
	e := &Embedded{Server: server, state: server.StateDir(), madeToken: config.BootstrapToken.In(settings) == ""}
	if err := e.complete(settings); err != nil {
		return nil, errors.Join(err, server.Stop())
	}
	log.Info("the embedded database is for one machine: other replicas cannot share it", zap.String("directory", server.Dir()))
	return e, nil
}

func (e *Embedded) complete(settings config.Values) error {
	settings[config.DatabaseURL.Name] = e.Server.URL(databaseNamed)
	for _, s := range []struct {
		key  *config.Key[string]
		file string
		make func() string
	}{
		{config.EncryptionKey, keyFile, seal.NewKey},
		{config.BootstrapToken, tokenFile, func() string { return rand.Text() + rand.Text() }},
	} {
		if s.key.In(settings) != "" {
			continue
		}
		text, err := e.once(s.file, func() ([]byte, error) { return []byte(s.make()), nil })
		if err != nil {
			return err
		}
		settings[s.key.Name] = string(text)
	}
	if config.TLSCertFile.In(settings) != "" {
		return nil
	}
	// The certificate is kept while it is good, so that what a client learnt
	// stays true.
	if !e.certificateIsGood() {
		for _, file := range []string{tlsCertFile, tlsKeyFile} {
			if err := os.Remove(filepath.Join(e.state, file)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	var keyPEM []byte
	_, err := e.once(tlsCertFile, func() (certPEM []byte, err error) {
		certPEM, keyPEM, err = web.SelfIssue(config.Listen.In(settings))
		if err == nil {
			err = e.write(tlsKeyFile, keyPEM)
		}
		return certPEM, err
	})
	settings[config.TLSCertFile.Name] = filepath.Join(e.state, tlsCertFile)
	settings[config.TLSKeyFile.Name] = filepath.Join(e.state, tlsKeyFile)
	return err
}

// certificateIsGood reports whether the kept pair can be presented for another
// month.
func (e *Embedded) certificateIsGood() bool {
	pair, err := tls.LoadX509KeyPair(filepath.Join(e.state, tlsCertFile), filepath.Join(e.state, tlsKeyFile))
	return err == nil && time.Now().AddDate(0, 1, 0).Before(pair.Leaf.NotAfter)
}

// once returns the content of a file, which is made if it is not there.
func (e *Embedded) once(name string, content func() ([]byte, error)) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(e.state, name))
	if !errors.Is(err, os.ErrNotExist) {
		return text, err
	}
	if text, err = content(); err != nil {
		return nil, err
	}
	return text, e.write(name, text)
}

// write puts a file in place whole or not at all.
func (e *Embedded) write(name string, content []byte) error {
	path := filepath.Join(e.state, name)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// FirstCall is a command that works as printed: it makes the first API key, or
// asks a server that has one whether it is ready.
func (e *Embedded) FirstCall(ctx context.Context, address string, a *App) (string, error) {
	address = strings.NewReplacer("//[::]:", "//localhost:", "//0.0.0.0:", "//localhost:").Replace(address)
	curl := "curl --cacert " + quote(config.TLSCertFile.In(a.settings)) + " " + address
	token := "$" + config.BootstrapToken.Name
	if e.madeToken {
		token = "$(cat " + quote(filepath.Join(e.state, tokenFile)) + ")"
	}
	used, err := store.Bootstrapped(ctx, a.db)
	if err != nil || used {
		return curl + "/readyz", err
	}
	return curl + `/api/v1/bootstrap -H 'Content-Type: application/json' \
    -d "{\"name\":\"admin\",\"token\":\"` + token + `\"}"`, nil
}

// quote returns a path as one word of a shell.
func quote(path string) string {
	if plainPath.MatchString(path) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

var plainPath = regexp.MustCompile(`^[A-Za-z0-9._/-]+$`)

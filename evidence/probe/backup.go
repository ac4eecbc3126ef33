package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"certctl/evidence"
	"certctl/evidence/lab"
	"certctl/server/api"
	"certctl/server/cert"
	"certctl/server/client"
	"certctl/server/config"
)

// backupProbe is the experiment with a database that is dumped and restored. What a
// control alters is the restored one.
var backupProbe = Probe{
	Of: evidence.BackupHolds, Needs: []Need{Processes}, Look: lookBackup, Make: own,
	Controls: []Defect{
		{
			Says:  "the dump lacks the revocations",
			Turns: func(api.Declared) []string { return []string{evidence.StillRevoked} },
			SQL:   tamper(`delete from revocations`),
		},
		{
			Says:  "an event was edited in the dump",
			Turns: func(api.Declared) []string { return []string{evidence.RestoredTrail} },
			SQL:   tamper(editEvent),
		},
	},
}

// backedUp are settings under which lists and the log soon have what was done.
var backedUp = map[string]string{
	config.AuditSequenceEvery.Name: "50ms",
	config.CRLGenerationEvery.Name: "50ms",
	config.ShutdownTimeout.Name:    "5s",
}

// a backup is a server whose database is dumped, and the one that follows it.
type backup struct {
	*Site
	dir     string
	request api.CertificateRequest
	issuer  string // its id
	seen    evidence.BackupSeen
}

func lookBackup(ctx context.Context, s *Site) (_ any, err error) {
	dir, err := os.MkdirTemp("", "certctl-backup-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	site := *s
	b := &backup{Site: &site, dir: dir}
	b.Made = &made{revoked: map[string][]string{}}
	if b.Database, err = s.Lab.Database(ctx); err != nil {
		return nil, err
	}
	kept, err := b.before(ctx)
	if err != nil {
		return nil, fmt.Errorf("before the dump is restored: %w", err)
	}
	if b.Database, err = s.Lab.Restore(ctx, b.file()); err != nil {
		return nil, err
	}
	if err := b.alter(ctx, s.Altered); err != nil {
		return nil, err
	}
	if err := b.after(ctx, kept); err != nil {
		return nil, fmt.Errorf("after the dump was restored: %w", err)
	}
	return b.seen, nil
}

func (b *backup) file() string { return filepath.Join(b.dir, "dump") }

// serving does something with a server on the database, and stops it.
func (b *backup) serving(ctx context.Context, nth int, do func() error) (err error) {
	settings := maps.Clone(backedUp)
	maps.Copy(settings, b.With)
	r, err := b.Lab.Server(ctx, b.Database, settings)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Kill()) }()
	b.seen.PIDs[nth] = r.Process.Pid
	key := ""
	if b.Admin != nil && nth > 0 {
		key = b.Admin.Key
	}
	if b.Admin, err = r.Client(key); err != nil {
		return err
	}
	return do()
}

// before works with a server, dumps its database, and works with it further. It
// returns a certificate whose key nobody has downloaded.
func (b *backup) before(ctx context.Context) (kept string, err error) {
	return kept, b.serving(ctx, 0, func() error {
		first := &api.NewBootstrap{}
		first.Body.Name, first.Body.Token = "administrator", b.Lab.BootstrapToken()
		admin, err := client.Do(ctx, b.Admin, api.Bootstrap, first)
		if err != nil {
			return err
		}
		b.Admin = b.Admin.With(admin.Secret)
		if b.request, err = lab.Estate(ctx, b.Admin, "backed up", nil); err != nil {
			return err
		}
		if kept, _, err = b.issue(ctx, &b.seen.Used); err != nil {
			return err
		}
		serial, err := b.revoke(ctx, &b.seen.Used)
		if err != nil {
			return err
		}
		b.seen.Revoked = append(b.seen.Revoked, serial)
		if err := b.fill(ctx); err != nil {
			return err
		}
		if err := b.served(ctx, serial); err != nil {
			return err
		}
		if err := b.learn(ctx); err != nil {
			return err
		}
		if err := b.Lab.Dump(ctx, b.Database, b.file()); err != nil {
			return err
		}
		lost, err := b.revoke(ctx, &b.seen.Used)
		if err != nil {
			return err
		}
		return b.served(ctx, lost)
	})
}

// after works with a server on the restored database.
func (b *backup) after(ctx context.Context, kept string) error {
	return b.serving(ctx, 1, func() error {
		serial, err := b.revoke(ctx, &b.seen.Serials)
		if err != nil {
			return err
		}
		if b.seen.List, b.seen.Number, err = b.listWith(ctx, serial); err != nil {
			return err
		}
		b.seen.Key = b.open(ctx, kept)
		trail, err := lookTrail(ctx, b.Site)
		if err != nil {
			return err
		}
		b.seen.Trail = trail.(evidence.TrailSeen) //nolint:forcetypeassert // it is what that look returns
		return nil
	})
}

// issue issues a certificate, and notes its serial number.
func (b *backup) issue(ctx context.Context, serials *[]string) (id, serial string, err error) {
	in := &api.NewCertificate{Body: b.request}
	in.Body.Name, in.Body.SANs = unique("backed up"), []string{inside}
	out, err := client.Do(ctx, b.Admin, api.IssueCertificate, in)
	if err != nil {
		return "", "", err
	}
	b.issuer = out.Certificate.IssuerID
	*serials = append(*serials, *out.Certificate.Serial)
	return out.Certificate.ID, *out.Certificate.Serial, nil
}

// revoke issues a certificate and revokes it.
func (b *backup) revoke(ctx context.Context, serials *[]string) (serial string, err error) {
	id, serial, err := b.issue(ctx, serials)
	if err != nil {
		return "", err
	}
	in := &api.NewRevocation{Body: &api.Why{Reason: cert.KeyCompromise.Name}}
	in.ID = id
	_, err = client.Do(ctx, b.Admin, api.RevokeCertificate, in)
	return serial, err
}

// served notes the number of the list that has the serial number.
func (b *backup) served(ctx context.Context, serial string) error {
	_, number, err := b.listWith(ctx, serial)
	b.seen.Served = append(b.seen.Served, number)
	return err
}

// listWith waits for a list that has the serial number.
func (b *backup) listWith(ctx context.Context, serial string) (seen evidence.ListSeen, number string, err error) {
	want, ok := cert.ParseSerial(serial)
	if !ok {
		return seen, "", errors.New("a serial number is none")
	}
	has := func() (bool, error) {
		der, err := b.public(ctx, api.GetCRL, b.issuer)
		if err != nil {
			return false, err
		}
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return false, err
		}
		number = list.Number.String()
		for _, e := range list.RevokedCertificateEntries {
			if e.SerialNumber.Cmp(want) == 0 {
				return true, nil
			}
		}
		return false, nil
	}
	done, err := eventually(3*patience, has)
	if err == nil && !done {
		err = errors.New("no list has what was revoked")
	}
	if err != nil {
		return seen, "", err
	}
	seen, err = b.list(ctx, b.dir, b.issuer, "", nil, map[string]string{})
	return seen, number, err
}

// open downloads the key of a certificate, and says what is wrong with it.
func (b *backup) open(ctx context.Context, id string) (wrong string) {
	key, err := client.Do(ctx, b.Admin, api.DownloadKey, &api.KeyDownload{ID: id})
	if err == nil {
		_, err = tls.X509KeyPair([]byte(key.CertificatePEM), []byte(key.KeyPEM))
	}
	if err != nil {
		return brief(err)
	}
	return ""
}

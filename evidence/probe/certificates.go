package probe

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"certctl/evidence"
	"certctl/server/api"
	"certctl/server/audit"
	"certctl/server/cert"
	"certctl/server/client"
	"certctl/server/issuer/local"
	"certctl/server/job"
	"certctl/server/store"
	"certctl/server/web"
)

// issuers are the names of those that sign what is made to be looked at.
var issuers = []string{"the first issuer", "the second issuer"}

// What is made to be looked at.
const (
	leaves = 200
	failed = 6 // half of them are tried again, and then wait
)

// made is what was made on a site, as the calls that did it know it.
type made struct {
	issuers, profiles map[string]string   // names by id
	revoked           map[string][]string // serials by the name of their issuer
}

// populated is a server with certificates in every state, on a copy of a database
// in which they were made once.
func populated(ctx context.Context, base *Site, d Defect) (*Site, func() error, error) {
	base.once.mu.Lock()
	defer base.once.mu.Unlock()
	if base.once.populated == nil {
		s, end, err := populatedOn(ctx, base, Defect{})
		if err != nil {
			return nil, nil, err
		}
		if err := end(); err != nil { // copies are made of what nobody uses
			return nil, nil, err
		}
		base.once.populated = s
	}
	return served(ctx, base.once.populated, d)
}

// populatedOn is a server with certificates in every state, on a database that was
// altered before there were any.
func populatedOn(ctx context.Context, base *Site, d Defect) (*Site, func() error, error) {
	s, end, err := fresh(ctx, base, d.sql(base.Declared))
	if err != nil {
		return nil, nil, err
	}
	first := &api.NewBootstrap{}
	first.Body.Name, first.Body.Token = "administrator", s.Lab.BootstrapToken()
	key, err := client.Do(ctx, s.Admin, api.Bootstrap, first)
	if err == nil {
		s.Admin = s.Admin.With(key.Secret)
		err = s.populate(ctx)
	}
	if err != nil {
		return nil, nil, errors.Join(err, end())
	}
	return s, end, nil
}

// populate makes certificates of every issuer under every profile, and brings
// some into each state.
func (s *Site) populate(ctx context.Context) error {
	s.Made = &made{issuers: map[string]string{}, profiles: map[string]string{}, revoked: map[string][]string{}}
	refs, profiles, err := s.estate(ctx)
	if err != nil {
		return err
	}
	in := &api.NewCertificates{}
	for i := range leaves {
		r := api.CertificateRequest{Refs: refs, Name: fmt.Sprintf("certificate %d", i)}
		profile := profiles[i%len(profiles)]
		r.IssuerID, r.ProfileID = issuers[i%len(issuers)], profile.name
		r.SANs = []string{fmt.Sprintf(profile.san, i)}
		in.Body.Requests = append(in.Body.Requests, r)
	}
	out, err := client.Do(ctx, s.Admin, api.IssueCertificates, in)
	if err != nil {
		return err
	}
	for _, o := range out.Items {
		if o.Created == nil {
			return fmt.Errorf("a certificate was not issued: %s", o.Error)
		}
	}
	if err := s.move(ctx, out, profiles); err != nil {
		return err
	}
	refs.IssuerID, refs.ProfileID = issuers[1], profiles[0].name
	return s.fail(ctx, refs)
}

// A shape is a profile with the form of the names that its certificates have.
type shape struct {
	name, san string
	unlisted  bool // its certificates are never on a list
}

// estate makes what the certificates belong to.
func (s *Site) estate(ctx context.Context) (store.Refs, []shape, error) {
	refs := store.Refs{OwnerID: "somebody", PolicyID: "patient"}
	profiles := []shape{{"servers", "c%d." + inside, false}, {"clients", "c%d@" + inside, false}, {"short-lived", "c%d." + inside, true}}
	owner, policy := &api.NewOwner{}, &api.NewPolicy{}
	owner.Body.Name, policy.Body.Name = refs.OwnerID, refs.PolicyID
	day := int64(24 * 60 * 60)
	policy.Body.RetryEverySeconds = &day // what failed waits
	_, err := client.Do(ctx, s.Admin, api.CreateOwner, owner)
	if err != nil {
		return refs, nil, err
	}
	if _, err := client.Do(ctx, s.Admin, api.CreatePolicy, policy); err != nil {
		return refs, nil, err
	}
	for _, p := range profiles {
		in, yes := &api.NewProfile{}, true
		in.Body.Name = p.name
		if p.unlisted {
			in.Body.ShortLived = &yes
		}
		if strings.Contains(p.san, "@") {
			in.Body.SANKinds, in.Body.ExtKeyUsages = &[]string{cert.EmailAddress.Name}, &[]string{cert.ClientAuth.Name}
		}
		made, err := client.Do(ctx, s.Admin, api.CreateProfile, in)
		if err != nil {
			return refs, nil, err
		}
		s.Made.profiles[made.ID] = made.Name
	}
	for i, settings := range []map[string]any{
		{"key_algorithm": cert.ECDSAP384.Name},
		{"key_algorithm": cert.RSA2048.Name, "permitted_dns_domains": []string{inside}},
	} {
		settings["common_name"] = issuers[i]
		in := &api.NewIssuer{}
		in.Body.Name, in.Body.Type = issuers[i], local.Type.Name
		if in.Body.Settings, err = json.Marshal(settings); err != nil {
			return refs, nil, err
		}
		made, err := client.Do(ctx, s.Admin, api.CreateIssuer, in)
		if err != nil {
			return refs, nil, err
		}
		s.Made.issuers[made.ID] = made.Name
	}
	return refs, profiles, nil
}

// move brings some of the certificates into the states that follow.
func (s *Site) move(ctx context.Context, out api.IssuedCertificates, profiles []shape) error {
	var ended []string
	for i, o := range out.Items {
		c, reason := o.Created.Certificate, cert.CertificateHold
		switch i / len(issuers) % 10 {
		case 0: // for good, for each reason in turn
			reason = cert.Reasons()[i/10%len(cert.Reasons())]
			fallthrough
		case 1:
			if profiles[i%len(profiles)].unlisted {
				continue
			}
			in := &api.NewRevocation{Body: &api.Why{Reason: reason.Name}}
			in.ID = c.ID
			if _, err := client.Do(ctx, s.Admin, api.RevokeCertificate, in); err != nil {
				return err
			}
			issuer := s.Made.issuers[c.IssuerID]
			s.Made.revoked[issuer] = append(s.Made.revoked[issuer], *c.Serial)
		case 2:
			if _, err := client.Do(ctx, s.Admin, api.ArchiveCertificate, &api.OneCertificate{ID: c.ID}); err != nil {
				return err
			}
		case 3:
			ended = append(ended, c.ID)
		}
	}
	// Nothing but time ends a certificate, so the rows are moved by hand. The
	// leaves stay what they are.
	return s.endCertificates(ctx, ended...)
}

// fail has jobs refused for good, and has half of them tried again with an
// issuer that is disabled: these wait for their next attempt.
func (s *Site) fail(ctx context.Context, refs store.Refs) error {
	var jobs, ids []string
	for i := range failed {
		in := &api.NewCertificate{Body: api.CertificateRequest{Refs: refs, Name: fmt.Sprintf("refused %d", i), SANs: []string{outsideName}, Queued: true}}
		out, err := client.Do(ctx, s.Admin, api.IssueCertificate, in)
		if err != nil {
			return err
		}
		jobs, ids = append(jobs, out.JobID), append(ids, out.Certificate.ID)
	}
	if err := s.awaitJobs(ctx, jobs, job.GivenUp); err != nil {
		return err
	}
	able := func(on bool) error {
		in := &api.IssuerChange{}
		in.Body.Enabled = &on
		for id, name := range s.Made.issuers {
			if name == refs.IssuerID {
				in.ID = id
			}
		}
		_, err := client.Do(ctx, s.Admin, api.UpdateIssuer, in)
		return err
	}
	if err := able(false); err != nil {
		return err
	}
	jobs = nil
	for _, id := range ids[:failed/2] {
		q, err := client.Do(ctx, s.Admin, api.RenewCertificate, &api.OneToRenew{ID: id})
		if err != nil {
			return err
		}
		jobs = append(jobs, q.JobID)
	}
	if err := s.awaitJobs(ctx, jobs, job.Failed); err != nil {
		return err
	}
	return able(true)
}

// awaitJobs waits until jobs have come to a state.
func (s *Site) awaitJobs(ctx context.Context, ids []string, state *job.State) error {
	for _, id := range ids {
		var j api.Job
		done, err := eventually(5*patience, func() (_ bool, err error) {
			j, err = client.Do(ctx, s.Admin, api.GetJob, &api.OneJob{ID: id})
			return j.State == state.Name, err
		})
		if err == nil && !done {
			err = fmt.Errorf("a job is %s, and not %s: %s", j.State, state.Name, j.Error)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func lookCertificates(ctx context.Context, s *Site) (any, error) {
	version, err := openssl(ctx, nil, "version")
	if err != nil {
		return nil, err
	}
	seen := evidence.CertificatesSeen{OpenSSL: strings.TrimSpace(version), States: map[string]int{}, Leaves: []evidence.LeafSeen{}, Lists: []evidence.ListSeen{}}
	dir, err := os.MkdirTemp("", "certctl-openssl-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	// Ends are marked, and lists signed, a moment after; a list that never has
	// what was revoked is what one of the controls is about.
	_, err = eventually(patience, func() (bool, error) { return s.settled(ctx) })
	if err != nil {
		return nil, err
	}
	events, err := s.issuances(ctx)
	if err != nil {
		return nil, err
	}
	query := &api.CertificateQuery{Limit: 500}
	for _, state := range s.Declared.CertStates {
		query.State = append(query.State, state.Name)
	}
	page, err := client.Do(ctx, s.Admin, api.ListCertificates, query)
	if err == nil && page.Next != "" {
		err = errors.New("there are more certificates than a page holds")
	}
	if err != nil {
		return nil, err
	}
	files := map[string][]string{} // of leaves, by the name of the issuer
	for _, c := range page.Items {
		seen.States[c.State]++
		if c.Version == nil {
			continue
		}
		pemText, err := client.Do(ctx, s.Admin, api.ExportPEM, &api.CertificateExport{ByID: api.ByID{ID: c.ID}})
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode([]byte(pemText.CertificatePEM))
		if block == nil {
			return nil, errors.New("a leaf is no PEM")
		}
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(block.Bytes)
		l := evidence.LeafSeen{
			Name: c.Name, Issuer: s.Made.issuers[c.IssuerID], Profile: s.Made.profiles[c.ProfileID], State: c.State,
			Serial: cert.Serial(leaf.SerialNumber), SHA256: hex.EncodeToString(sum[:]), Row: *c.Serial + " " + *c.Fingerprint,
			Events: events[c.IssuerID+" "+*c.Serial],
		}
		file := filepath.Join(dir, strconv.Itoa(len(seen.Leaves))+".pem")
		if err := os.WriteFile(file, []byte(pemText.CertificatePEM), 0o600); err != nil {
			return nil, err
		}
		files[l.Issuer] = append(files[l.Issuer], file)
		seen.Leaves = append(seen.Leaves, l)
	}
	verified := map[string]string{}
	for id, issuer := range s.Made.issuers {
		l, err := s.list(ctx, dir, id, issuer, files[issuer], verified)
		if err != nil {
			return nil, err
		}
		seen.Lists = append(seen.Lists, l)
	}
	slices.SortFunc(seen.Lists, func(a, b evidence.ListSeen) int { return strings.Compare(a.Issuer, b.Issuer) })
	for i := range seen.Leaves {
		seen.Leaves[i].OpenSSL = verified[filepath.Join(dir, strconv.Itoa(i)+".pem")]
	}
	return seen, nil
}

// settled reports whether what was made has come to its states and lists.
func (s *Site) settled(ctx context.Context) (bool, error) {
	stats, err := client.Do(ctx, s.Admin, api.GetStats, &api.StatsQuery{Days: 1})
	if err != nil || stats.Expired == 0 {
		return false, err
	}
	for _, e := range stats.Ending {
		if e.Days == 0 && e.Count > 0 { // ended, and about to be marked
			return false, nil
		}
	}
	lists, err := client.Do(ctx, s.Admin, api.ListCRLs, &api.Empty{})
	if err != nil {
		return false, err
	}
	for _, l := range lists.Items {
		if int(l.Entries) != len(s.Made.revoked[l.Issuer]) {
			return false, nil
		}
	}
	return true, nil
}

// issuances counts the events of issuances, by the ids of issuers with serials.
func (s *Site) issuances(ctx context.Context) (map[string]int, error) {
	events := map[string]int{}
	in := &api.EventQuery{Limit: 500}
	in.Action = audit.CertIssued.Name
	for {
		page, err := client.Do(ctx, s.Admin, api.ListEvents, in)
		if err != nil {
			return nil, err
		}
		for _, e := range page.Items {
			events[e.Details["issuer"]+" "+e.Details["serial"]]++
		}
		if in.Before = page.Next; page.Next == 0 {
			return events, nil
		}
	}
}

var serialLine = regexp.MustCompile(`(?m)^ *Serial Number: ([0-9A-F]+)$`)

// list has openssl read an issuer's list, and verify the issuer's leaves in the
// files.
func (s *Site) list(ctx context.Context, dir, id, issuer string, files []string, verified map[string]string) (evidence.ListSeen, error) {
	seen := evidence.ListSeen{Issuer: issuer, Serials: []string{}, Revoked: s.Made.revoked[issuer]}
	der, err := s.public(ctx, api.GetCA, id)
	if err != nil {
		return seen, err
	}
	ca := filepath.Join(dir, id+".pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return seen, err
	}
	crl, err := s.public(ctx, api.GetCRL, id)
	if err != nil {
		return seen, err
	}
	if seen.OpenSSL, err = openssl(ctx, crl, "crl", "-inform", "DER", "-noout", "-CAfile", ca); err != nil {
		seen.OpenSSL += ": " + err.Error()
	}
	seen.OpenSSL = strings.TrimSpace(seen.OpenSSL)
	text, err := openssl(ctx, crl, "crl", "-inform", "DER", "-noout", "-text")
	if err != nil {
		return seen, err
	}
	for _, m := range serialLine.FindAllStringSubmatch(text, -1) {
		n, ok := cert.ParseSerial(m[1])
		if !ok {
			return seen, errors.New("openssl shows a serial number that is none")
		}
		seen.Serials = append(seen.Serials, cert.Serial(n))
	}
	// It goes on after a leaf that does not verify, and fails at the end.
	said, err := openssl(ctx, nil, append([]string{"verify", "-CAfile", ca}, files...)...)
	if err != nil && said == "" {
		return seen, err
	}
	for _, f := range files {
		verified[f] = "does not verify"
		if strings.Contains(said, f+": "+evidence.LeafOK+"\n") {
			verified[f] = evidence.LeafOK
		}
	}
	return seen, nil
}

// public reads what relying parties read of an issuer.
func (s *Site) public(ctx context.Context, r web.Raw, issuer string) ([]byte, error) {
	res, err := s.Admin.With("").Send(ctx, r.Method, parameter.ReplaceAllString(r.Path, issuer), nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.Name, err)
	}
	defer res.Body.Close()
	return io.ReadAll(res.Body)
}

// openssl returns all that the command says.
func openssl(ctx context.Context, in []byte, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "openssl", args...)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("openssl %s: %w", args[0], err)
	}
	return string(out), err
}

const (
	swapLeaves = `
		set session_replication_role = replica;
		with pair as (
			select array_agg(id) as ids from (
				select distinct on (issuer_id) id from certificates where state = 'active' order by issuer_id, id) c
		)
		update certificate_versions v set der = o.der
		from certificate_versions o, pair
		where v.certificate_id = any(pair.ids) and o.certificate_id = any(pair.ids) and v.certificate_id <> o.certificate_id`
	unlist = `
		create function unlist() returns trigger language plpgsql as $$
		begin
			new.listed := false;
			return new;
		end $$;
		create trigger unlist before insert on revocations for each row execute function unlist()`
)

var listOther = `
	insert into revocations (issuer_id, serial, certificate_id, number, reason, revoked_at, not_after, listed, entry)
	select v.issuer_id, v.serial, v.certificate_id, v.number, 0, now(), v.not_after, true,
		(select entry from revocations r where r.issuer_id <> v.issuer_id limit 1)
	from certificate_versions v join certificates c on c.id = v.certificate_id and c.state = 'active'
	where v.issuer_id = (select id from issuers where name = '` + issuers[0] + `') limit 1;
	insert into crl_requests (issuer_id) select id from issuers where name = '` + issuers[0] + `'`

var deleteIssuance = `
	set session_replication_role = replica;
	delete from audit_events where id = (select min(id) from audit_events where action = '` + audit.CertIssued.Name + `')`

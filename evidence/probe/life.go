package probe

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"

	"certctl/evidence/lab"
	"certctl/server/api"
	"certctl/server/audit"
	"certctl/server/cert"
	"certctl/server/client"
	"certctl/server/issuer/local"
	"certctl/server/notify/webhook"
	"certctl/server/outbox"
)

// around are the steps with what stands around certificates. Nothing belongs to
// it, so that it can be deleted.
func (s *Site) around(ctx context.Context) []step {
	off, told := false, "It is worked with."
	team, teamChange := &api.NewTeam{}, &api.TeamChange{}
	team.Body.Name, teamChange.Body.Description = unique("team"), &told
	owner, ownerChange := &api.NewOwner{}, &api.OwnerChange{}
	email := "somebody@example.com"
	owner.Body.Name, ownerChange.Body.Email = unique("owner"), &email
	policy, policyChange := &api.NewPolicy{}, &api.PolicyChange{}
	policy.Body.Name, policyChange.Body.AutoRenew = unique("policy"), &off
	profile, profileChange := &api.NewProfile{}, &api.ProfileChange{}
	profile.Body.Name, profileChange.Body.Wildcards = unique("profile"), &off
	issuer, issuerChange := &api.NewIssuer{}, &api.IssuerChange{}
	issuer.Body.Name, issuer.Body.Type, issuerChange.Body.Enabled = unique("issuer"), local.Type.Name, &off
	issuer.Body.Settings = json.RawMessage(`{"common_name": "Worked with"}`)
	toTest := &api.ByID{}
	return []step{
		call(ctx, s, api.CreateTeam, team, audit.TeamCreated, func(t api.Team) { teamChange.ID = t.ID }),
		call(ctx, s, api.UpdateTeam, teamChange, audit.TeamChanged, nil),
		call(ctx, s, api.DeleteTeam, &teamChange.ByID, audit.TeamDeleted, nil),
		call(ctx, s, api.CreateOwner, owner, audit.OwnerCreated, func(o api.Owner) { ownerChange.ID = o.ID }),
		call(ctx, s, api.UpdateOwner, ownerChange, audit.OwnerChanged, nil),
		call(ctx, s, api.DeleteOwner, &ownerChange.ByID, audit.OwnerDeleted, nil),
		call(ctx, s, api.CreatePolicy, policy, audit.PolicyCreated, func(p api.Policy) { policyChange.ID = p.ID }),
		call(ctx, s, api.UpdatePolicy, policyChange, audit.PolicyChanged, nil),
		call(ctx, s, api.DeletePolicy, &policyChange.ByID, audit.PolicyDeleted, nil),
		call(ctx, s, api.CreateProfile, profile, audit.ProfileCreated, func(p api.Profile) { profileChange.ID = p.ID }),
		call(ctx, s, api.UpdateProfile, profileChange, audit.ProfileChanged, nil),
		call(ctx, s, api.DeleteProfile, &profileChange.ByID, audit.ProfileDeleted, nil),
		call(ctx, s, api.CreateIssuer, issuer, audit.IssuerCreated, func(i api.Issuer) { issuerChange.ID, toTest.ID = i.ID, i.ID }).and(audit.CRLSigned),
		call(ctx, s, api.TestIssuer, toTest, audit.IssuerTested, nil),
		call(ctx, s, api.UpdateIssuer, issuerChange, audit.IssuerChanged, nil),
		call(ctx, s, api.DeleteIssuer, toTest, audit.IssuerDeleted, nil),
	}
}

// The names that an authority with a constraint may sign, and one that it may
// not: a request whose job finds that out is refused for good.
const (
	inside, outsideName = "inside.example.com", "outside.example.com"
)

// life makes what certificates belong to, and returns the steps of their lives.
func (s *Site) life(ctx context.Context) ([]step, error) {
	request, err := lab.Estate(ctx, s.Admin, unique("worked with"), map[string]any{"permitted_dns_domains": []string{inside}})
	if err != nil {
		return nil, err
	}
	profileChange, issuerChange := func(on bool) *api.ProfileChange {
		in := &api.ProfileChange{}
		in.Body.Enabled = &on
		return in
	}, func(on bool) *api.IssuerChange {
		in := &api.IssuerChange{}
		in.Body.Enabled = &on
		return in
	}
	profileOff, profileOn, issuerOff := profileChange(false), profileChange(true), issuerChange(false)
	asked := func(name, san string, queued bool) *api.NewCertificate {
		in := &api.NewCertificate{Body: request}
		in.Body.Name, in.Body.SANs, in.Body.Queued = unique(name), []string{san}, queued
		return in
	}
	one, change, key, hold, revoke := &api.OneCertificate{}, &api.CertificateChange{}, &api.KeyDownload{}, &api.NewRevocation{}, &api.NewRevocation{}
	environment := "laboratory"
	change.Body.Environment = &environment
	hold.Body, revoke.Body = &api.Why{Reason: cert.CertificateHold.Name}, &api.Why{Reason: cert.KeyCompromise.Name}
	release, renew, failed, waiting := &api.OneToRelease{}, &api.OneToRenew{}, &api.OneJob{}, &api.OneJob{}
	many := &api.NewBulk{}
	many.Body.Action, many.Body.OwnerID = api.BulkReassign.Name, request.OwnerID
	ends := ""
	channel, channelChange, channelOff, tellIt, tellNobody, toTest := deaf(), &api.ChannelChange{}, &api.ChannelChange{}, &api.PolicyChange{}, &api.PolicyChange{}, &api.ByID{}
	yes, no := true, false
	channelChange.Body.Digest, channelOff.Body.Enabled = &yes, &no
	tellIt.Body.Channels = &[]api.PolicyChannel{{ChannelID: channel.Body.Name, From: outbox.Informational.Name}}
	tellNobody.Body.Channels = &[]api.PolicyChannel{}
	made := func(c api.Channel) { channelChange.ID, channelOff.ID, toTest.ID = c.ID, c.ID, c.ID }
	first := func(c api.IssuedCertificate) {
		id := c.Certificate.ID
		tellIt.ID, tellNobody.ID = c.Certificate.PolicyID, c.Certificate.PolicyID
		one.ID, change.ID, key.ID, hold.ID, revoke.ID, release.ID = id, id, id, id, id, id
		profileOff.ID, profileOn.ID, issuerOff.ID = c.Certificate.ProfileID, c.Certificate.ProfileID, c.Certificate.IssuerID
	}
	second := func(c api.IssuedCertificate) {
		renew.ID, ends = c.Certificate.ID, c.Certificate.ID
		many.Body.Criteria.IDs = []string{c.Certificate.ID}
	}
	return []step{
		call(ctx, s, api.IssueCertificate, asked("first", "a."+inside, false), audit.CertIssued, first),
		call(ctx, s, api.UpdateCertificate, change, audit.CertChanged, nil),
		call(ctx, s, api.DownloadKey, key, audit.CertKeyDownloaded, nil),
		call(ctx, s, api.CreateChannel, channel, audit.ChannelCreated, made),
		call(ctx, s, api.TestChannel, toTest, audit.ChannelTested, nil),
		call(ctx, s, api.UpdateChannel, channelChange, audit.ChannelChanged, nil),
		call(ctx, s, api.UpdatePolicy, tellIt, audit.PolicyChanged, nil).so("to have a channel told"),
		call(ctx, s, api.RevokeCertificate, hold, audit.CertHeld, nil).so("for the time being, which a channel cannot be told").and(audit.NotificationDead),
		{what: "call of " + api.RequeueNotification.Name, writes: audit.NotificationRequeued, later: audit.NotificationDead, do: func() error { return s.requeue(ctx) }},
		call(ctx, s, api.UpdatePolicy, tellNobody, audit.PolicyChanged, nil).so("to have no channel told"),
		call(ctx, s, api.UpdateChannel, channelOff, audit.ChannelChanged, nil).so("to disable it"),
		call(ctx, s, api.DeleteChannel, toTest, audit.ChannelDeleted, nil),
		call(ctx, s, api.ReleaseCertificate, release, audit.CertReleased, nil),
		call(ctx, s, api.RevokeCertificate, revoke, audit.CertRevoked, nil).so("for good"),
		call(ctx, s, api.ArchiveCertificate, one, audit.CertArchived, nil),

		call(ctx, s, api.IssueCertificate, asked("second", "b."+inside, true), audit.CertRequested, second).so("to be done by a job").and(audit.CertIssued),
		call(ctx, s, api.RenewCertificate, renew, audit.RenewalQueued, nil).and(audit.CertIssued),
		call(ctx, s, api.StartBulk, many, audit.BulkStarted, nil).and(audit.BulkFinished),

		call(ctx, s, api.IssueCertificate, asked("third", outsideName, true), audit.CertRequested,
			func(c api.IssuedCertificate) { failed.ID = c.JobID }).so("outside of what its issuer may sign").and(audit.IssuanceFailed),
		call(ctx, s, api.RetryJob, failed, audit.JobRetried, nil).and(audit.IssuanceFailed),
		call(ctx, s, api.UpdateProfile, profileOff, audit.ProfileChanged, nil).so("to disable it"),
		call(ctx, s, api.RenewCertificate, renew, audit.RenewalQueued, nil).so("under a disabled profile").and(audit.RenewalFailed),
		call(ctx, s, api.UpdateProfile, profileOn, audit.ProfileChanged, nil).so("to enable it"),
		call(ctx, s, api.UpdateIssuer, issuerOff, audit.IssuerChanged, nil).so("to disable it"),
		call(ctx, s, api.RenewCertificate, renew, audit.RenewalQueued, func(q api.QueuedRenewal) { waiting.ID = q.JobID }).so("with a disabled issuer"),
		call(ctx, s, api.CancelJob, waiting, audit.JobCancelled, nil),
		// Nothing but time ends a certificate, so the row is moved by hand.
		{what: "the end of a certificate moved into the past, by hand", later: audit.CertExpired, do: func() error { return s.endCertificates(ctx, ends) }},
	}, nil
}

// deaf asks for a channel that nothing can be sent through: the server may not
// connect to where it is.
func deaf() *api.NewChannel {
	in := &api.NewChannel{}
	in.Body.Name, in.Body.Type = unique("channel"), webhook.Type.Name
	in.Body.Settings = json.RawMessage(`{"url": "https://127.0.0.1:9/"}`)
	return in
}

var errNoneGivenUp = errors.New("no notification was given up")

// requeue queues the newest notification that was given up again.
func (s *Site) requeue(ctx context.Context) error {
	page, err := client.Do(ctx, s.Admin, api.ListNotifications, &api.NotificationQuery{State: outbox.GivenUp.Name, Limit: 1})
	if err != nil || len(page.Items) == 0 {
		return cmp.Or(err, errNoneGivenUp)
	}
	_, err = client.Do(ctx, s.Admin, api.RequeueNotification, &api.OneNotification{ID: page.Items[0].ID})
	return err
}

// endCertificates moves the end of certificates into the past.
func (s *Site) endCertificates(ctx context.Context, ids ...string) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `update certificates set not_after = clock_timestamp() - interval '1 second' where id = any($1)`, ids)
	return err
}

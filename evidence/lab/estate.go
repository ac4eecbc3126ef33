package lab

import (
	"context"
	"encoding/json"
	"maps"

	"certctl/server/api"
	"certctl/server/client"
	"certctl/server/issuer/local"
	"certctl/server/store"
)

// Estate makes all that a certificate belongs to, with the names that begin with
// prefix, and returns a request for certificates that belong to it. settings are
// those of its issuer, a local authority, beside its name.
func Estate(ctx context.Context, c *client.Client, prefix string, settings map[string]any) (api.CertificateRequest, error) {
	refs := store.Refs{OwnerID: prefix + " owner", IssuerID: prefix + " issuer", ProfileID: prefix + " profile", PolicyID: prefix + " policy"}
	owner := &api.NewOwner{}
	owner.Body.Name = refs.OwnerID
	policy := &api.NewPolicy{}
	policy.Body.Name = refs.PolicyID
	retries, second := 10, int64(1)
	policy.Body.MaxRetries, policy.Body.RetryEverySeconds = &retries, &second
	profile := &api.NewProfile{}
	profile.Body.Name = refs.ProfileID
	issuer := &api.NewIssuer{}
	issuer.Body.Name, issuer.Body.Type = refs.IssuerID, local.Type.Name
	all := map[string]any{"common_name": refs.IssuerID}
	maps.Copy(all, settings)
	var err error
	if issuer.Body.Settings, err = json.Marshal(all); err != nil {
		return api.CertificateRequest{}, err
	}
	if _, err := client.Do(ctx, c, api.CreateOwner, owner); err != nil {
		return api.CertificateRequest{}, err
	}
	if _, err := client.Do(ctx, c, api.CreatePolicy, policy); err != nil {
		return api.CertificateRequest{}, err
	}
	if _, err := client.Do(ctx, c, api.CreateProfile, profile); err != nil {
		return api.CertificateRequest{}, err
	}
	_, err = client.Do(ctx, c, api.CreateIssuer, issuer)
	return api.CertificateRequest{Refs: refs}, err
}

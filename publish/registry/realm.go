package registry

import (
	"net/http"
	"net/url"
	"strings"
)

// trustRealm lets the registry's token come from the trusted host. oras-go
// refuses token servers on private addresses other than the registry's own, for
// a registry could send credentials anywhere by naming them. A GitLab of one's
// own is such a pair of hosts (registry.lan, gitlab.lan), and in its jobs
// CI_SERVER_HOST says which host is trusted: for that one alone, the realm is
// shown to oras-go as a path of the registry, and requests to the path go where
// the realm said.
func trustRealm(base http.RoundTripper, trusted string) http.RoundTripper {
	if trusted == "" {
		return base
	}
	return realmTransport{base, trusted}
}

type realmTransport struct {
	base    http.RoundTripper
	trusted string
}

const realmPath = "/.vmctl-token/"

// RoundTrip implements http.RoundTripper.
func (t realmTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if rest, ok := strings.CutPrefix(req.URL.Path, realmPath); ok {
		req = req.Clone(req.Context())
		scheme, path, _ := strings.Cut(rest, "/")
		host, path, _ := strings.Cut(path, "/")
		if host != t.trusted && !strings.HasPrefix(host, t.trusted+":") {
			return nil, &url.Error{Op: req.Method, URL: req.URL.Redacted(), Err: http.ErrNotSupported}
		}
		req.URL.Scheme, req.URL.Host, req.Host, req.URL.Path = scheme, host, host, "/"+path
	}
	resp, err := t.base.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	challenges := resp.Header.Values("WWW-Authenticate")
	resp.Header.Del("WWW-Authenticate")
	for _, challenge := range challenges {
		resp.Header.Add("WWW-Authenticate", t.mask(req.URL, challenge))
	}
	return resp, nil
}

// mask rewrites the realm of a challenge where it is the trusted host over TLS.
func (t realmTransport) mask(registry *url.URL, challenge string) string {
	before, rest, ok := strings.Cut(challenge, `realm="`)
	realm, after, closed := strings.Cut(rest, `"`)
	if !ok || !closed {
		return challenge
	}
	u, err := url.Parse(realm)
	if err != nil || u.Hostname() != t.trusted || u.Scheme != "https" && registry.Scheme == "https" {
		return challenge
	}
	masked := url.URL{Scheme: registry.Scheme, Host: registry.Host, Path: realmPath + u.Scheme + "/" + u.Host + u.Path, RawQuery: u.RawQuery}
	return before + `realm="` + masked.String() + `"` + after
}

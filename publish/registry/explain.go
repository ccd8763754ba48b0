package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"

	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// Explain makes a failure of a registry, or of a file of this machine, a
// fail.Error of the kind Registry or Host that says where and what to do. ref is a reference or a host. URLs lose what may be
// secret in them, such as the signatures of a storage service. What is such an error
// already, nil, and context.Canceled stay as they are.
func Explain(ref string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	if _, ok := errors.AsType[*fail.Error](err); ok {
		return err
	}
	if IsLocal(err) {
		return asLocal(err)
	}
	if request, ok := errors.AsType[*url.Error](err); ok {
		full := request.URL
		request.URL = "a URL that cannot be shown"
		if u, err := url.Parse(full); err == nil {
			request.URL = bare(u).String()
		}
	}
	if response, ok := errors.AsType[*errcode.ErrorResponse](err); ok && response.URL != nil {
		response.URL = bare(response.URL)
	}
	return &fail.Error{Kind: fail.Registry, Op: ref, Err: err, Hint: hintFor(ref, err)}
}

// bare is a URL without what may be secret in it.
func bare(u *url.URL) *url.URL { return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path} }

func loginHint(host string) string {
	return "run 'vmctl login " + host + "', or give --username and --password-stdin"
}

func hintFor(ref string, err error) string {
	host, _, _ := strings.Cut(ref, "/")
	switch Status(err) {
	case http.StatusUnauthorized:
		return loginHint(host)
	case http.StatusBadRequest:
		if response, ok := errors.AsType[*errcode.ErrorResponse](err); ok && len(response.Errors) == 0 { // in no registry's words
			return "check host and port; with --plain-http, the registry may want TLS"
		}
	case http.StatusForbidden:
		return "the account may not do this in that repository: ask its owner for the right to push or pull"
	case http.StatusNotFound:
		return "check the repository and the tag"
	case http.StatusRequestEntityTooLarge:
		return "the registry, or a proxy before it, limits the size of uploads: raise the limit there"
	case http.StatusTooManyRequests:
		return "the registry limits requests: try again later"
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return "the registry is in trouble; what was sent is kept, so try again later"
	}
	if errors.Is(err, auth.ErrBasicCredentialNotFound) {
		return loginHint(host)
	}
	return hintForConnection(err)
}

func hintForConnection(err error) string {
	var unknownAuthority x509.UnknownAuthorityError
	var certificate *tls.CertificateVerificationError
	var notTLS tls.RecordHeaderError
	dns, unknownHost := errors.AsType[*net.DNSError](err)
	connection, connecting := errors.AsType[*net.OpError](err)
	switch {
	case errors.As(err, &unknownAuthority):
		return "give the certificate of its authority with --ca-file"
	case errors.As(err, &certificate):
		return "the certificate is not for this host and time: check the name of the host and the clock, or tell the registry's owner"
	case errors.As(err, &notTLS) || errors.Is(err, http.ErrSchemeMismatch):
		return "the registry speaks no TLS: give --plain-http if that is meant"
	case strings.Contains(err.Error(), "malformed HTTP response"):
		return "what answers there speaks another protocol: check host and port; with --plain-http, the registry may want TLS"
	case connecting && connection.Op == tlsAlert:
		return "the registry refuses the TLS connection: check host and port, or tell its owner"
	case unknownHost && dns.IsNotFound:
		return "check the name of the host"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "check that the registry runs, and its port"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "the registry, or a proxy before it, hangs: tell its owner, or try again later; what was transferred is kept"
	case errors.Is(err, errdef.ErrNotFound):
		return "check the repository and the tag"
	case strings.Contains(err.Error(), "bearer realm"):
		return "the registry's token server has a private address; in GitLab jobs CI_SERVER_HOST names it, elsewhere set that variable"
	}
	return "check the reference and the connection, and try again"
}

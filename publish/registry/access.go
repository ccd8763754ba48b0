package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
)

// Access is how registries are reached, and layouts written. The zero value reaches them over TLS
// with the credentials of Docker's configuration.
type Access struct {
	PlainHTTP bool   // no TLS; loopback does without where the registry speaks none
	CAFile    string // PEM certificates trusted beside the system's
	Username  string
	Password  string
	UserAgent string
	Patience  time.Duration // with a connection on which nothing moves; 0 means 5 min
	Owner     files.Owner   // of what is written to layouts and archives
}

// repository is the registry's repository, with all that oras-go needs to know.
func (a Access) repository(ctx context.Context, r Reference) (*remote.Repository, error) {
	client, plain, err := a.client(ctx, r.Host())
	if err != nil {
		return nil, err
	}
	repository, err := remote.NewRepository(r.repo.Registry + "/" + r.repo.Repository)
	if err != nil {
		return nil, err
	}
	repository.Client, repository.PlainHTTP = client, plain
	repository.SkipReferrersGC = true // many registries refuse DELETE
	return repository, nil
}

func (a Access) client(ctx context.Context, host string) (_ *auth.Client, plain bool, err error) {
	transport, err := a.transport()
	if err != nil {
		return nil, false, err
	}
	credential, err := a.credential()
	if err != nil {
		return nil, false, err
	}
	client := &auth.Client{
		Client: &http.Client{Transport: limitPages(trustRealm(transport, os.Getenv("CI_SERVER_HOST")))},
		Cache:  auth.NewCache(), Credential: credential,
	}
	client.SetUserAgent(a.UserAgent)
	return client, a.PlainHTTP || a.CAFile == "" && speaksPlain(ctx, host), nil
}

// transport speaks HTTP/1.1 and nothing else. HTTP/2 would put all requests on
// one connection, where a transfer that hangs could not be told from the others,
// and its windows make the single large body that a disk is half as fast, even
// within one machine. Every registry speaks HTTP/1.1, but takes HTTP/2 if the TLS
// handshake offers both, as the default transport's TLS configuration does: so
// this one has its own.
func (a Access) transport() (*http.Transport, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ForceAttemptHTTP2 = false
	transport.TLSClientConfig = &tls.Config{NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}
	transport.DisableCompression = true // it saves nothing on compressed disks
	transport.MaxResponseHeaderBytes = 256 << 10
	transport.WriteBufferSize, transport.ReadBufferSize = files.CopyBuffer, files.CopyBuffer
	transport.DialContext = impatiently(transport.DialContext, a.Patience)
	if a.CAFile == "" {
		return transport, nil
	}
	var err error
	transport.TLSClientConfig.RootCAs, err = a.pool()
	return transport, err
}

func (a Access) pool() (*x509.CertPool, error) {
	content, err := os.ReadFile(a.CAFile)
	if err != nil {
		return nil, &fail.Error{Kind: fail.Usage, Op: "--ca-file", Err: err}
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(content) {
		return nil, fail.New(fail.Usage, a.CAFile, "give a file of PEM certificates", "it holds no certificate")
	}
	return pool, nil
}

// speaksPlain says whether a registry on this very machine speaks no TLS. Any
// other registry is asked without TLS only if the user says so.
func speaksPlain(ctx context.Context, hostport string) bool {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		host, port = hostport, "443"
	}
	if ip := net.ParseIP(strings.Trim(host, "[]")); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return false
	}
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: 3 * time.Second}, Config: &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}}
	connection, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(strings.Trim(host, "[]"), port))
	if err == nil {
		_ = connection.Close()
		return false
	}
	var notTLS tls.RecordHeaderError
	return errors.As(err, &notTLS)
}

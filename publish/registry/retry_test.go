package registry

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// TestOnlyWhatMayPassIsTriedAgain has failures as net/http and crypto/tls give
// them.
func TestOnlyWhatMayPassIsTriedAgain(t *testing.T) {
	request := func(err error) error { return &url.Error{Op: "Get", URL: "https://registry.example/v2/", Err: err} }
	for name, tc := range map[string]struct {
		err  error
		want bool
	}{
		"refused":         {request(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}), true},
		"reset":           {request(&net.OpError{Op: "read", Err: syscall.ECONNRESET}), true},
		"cut":             {request(io.ErrUnexpectedEOF), true},
		"cut, wrapped":    {request(fmt.Errorf("net/http: HTTP/1.x transport connection broken: %w", io.EOF)), true},
		"idle":            {request(errors.New("http: server closed idle connection")), true},
		"hangs":           {request(os.ErrDeadlineExceeded), true},
		"another version": {request(errors.New(`net/http: HTTP/1.x transport connection broken: malformed HTTP response "\x00\x00\x12"`)), false},
		"no TLS":          {request(http.ErrSchemeMismatch), false},
		"refused by TLS":  {request(&net.OpError{Op: "remote error", Err: errors.New("tls: no application protocol")}), false},
		"old TLS":         {request(errors.New("tls: server selected unsupported protocol version 301")), false},
		"scheme":          {request(errors.New(`unsupported protocol scheme "oci"`)), false},
		"certificate":     {request(&tls.CertificateVerificationError{Err: errors.New("unknown authority")}), false},
		"host":            {request(&net.DNSError{IsNotFound: true}), false},
		"file":            {request(&fs.PathError{Op: "read", Path: "disk", Err: syscall.EIO}), false},
	} {
		if got := Temporary(tc.err); got != tc.want {
			t.Errorf("%s: %v is tried again: %v", name, tc.err, got)
		}
		if err := Explain("registry.example/debian", tc.err); fail.Hint(err) == "" {
			t.Errorf("%s has no hint", name)
		}
	}
}

package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"syscall"
	"time"

	"oras.land/oras-go/v2/registry/remote/errcode"
)

// Retry says how often an operation on a registry is repeated after failures
// that may pass. The zero value has sensible limits.
type Retry struct {
	Attempts int           // in all, without progress between them; 0 means 6
	Wait     time.Duration // before the first repetition, doubled each time; 0 means 1 s
}

const (
	defaultAttempts = 6
	defaultWait     = time.Second
	longestWait     = 30 * time.Second
)

// Do runs op until it succeeds, fails for good, or has failed too often. moved
// says whether bytes went through since it was last asked: then patience starts
// anew. tell hears of each repetition; both may be nil. The error is the last one of
// op, joined with that of the context where this ended.
func (r Retry) Do(ctx context.Context, moved func() bool, tell func(string), op func() error) error {
	attempts, wait := r.Attempts, r.Wait
	if attempts == 0 {
		attempts = defaultAttempts
	}
	if wait == 0 {
		wait = defaultWait
	}
	unauthorized := false
	pause := wait
	for failures := 1; ; failures++ {
		err := op()
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		status := Status(err)
		// A token may have expired while a large body was sent; a new one is
		// fetched once.
		again := Temporary(err) || status == http.StatusUnauthorized && !unauthorized
		unauthorized = status == http.StatusUnauthorized
		if moved != nil && moved() {
			failures, pause = 1, wait
			unauthorized = false
		}
		if !again || failures >= attempts {
			return err
		}
		if tell != nil {
			tell(fmt.Sprintf("%s; again in %s", brief(err), pause.Round(100*time.Millisecond)))
		}
		timer := time.NewTimer(pause + rand.N(pause/4+1))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
		pause = min(2*pause, longestWait)
	}
}

// Status is the HTTP status that the registry answered with, 0 where it did not.
func Status(err error) int {
	if response, ok := errors.AsType[*errcode.ErrorResponse](err); ok {
		return response.StatusCode
	}
	return 0
}

// Temporary says whether a failure may pass by itself.
func Temporary(err error) bool {
	switch Status(err) {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests,
		http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	case http.StatusNotFound, http.StatusRequestedRangeNotSatisfiable:
		code, ok := errors.AsType[errcode.Error](err)
		return ok && (code.Code == errcode.ErrorCodeBlobUploadUnknown || code.Code == errcode.ErrorCodeBlobUploadInvalid)
	case 0:
		return temporaryConnection(err)
	default:
		return false
	}
}

// temporaryConnection says whether a failure without an answer may pass. It has
// to be one that is known to: what the other side says in another protocol, a
// certificate that nobody trusts or a local file will be the same again.
func temporaryConnection(err error) bool {
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &certificate) {
		return false
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return dns.IsTemporary || dns.IsTimeout
	}
	if connection, ok := errors.AsType[*net.OpError](err); ok {
		return connection.Op != tlsAlert
	}
	for _, passing := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNREFUSED, net.ErrClosed} {
		if errors.Is(err, passing) {
			return true
		}
	}
	request, ok := errors.AsType[*url.Error](err)
	return ok && (request.Timeout() || slices.Contains(closedIdle, request.Err.Error()))
}

// tlsAlert is the operation of a *net.OpError in which the other side refuses
// the TLS connection.
const tlsAlert = "remote error"

// closedIdle is how net/http says that a connection was closed before a request
// was sent on it. The errors have no type and no name.
var closedIdle = []string{"http: server closed idle connection", "http: persistConn.readLoop exiting"}

// brief is the cause without the URLs around it.
func brief(err error) string {
	if status := Status(err); status != 0 {
		return fmt.Sprintf("the registry says %d %s", status, http.StatusText(status))
	}
	if request, ok := errors.AsType[*url.Error](err); ok {
		return request.Err.Error()
	}
	return err.Error()
}

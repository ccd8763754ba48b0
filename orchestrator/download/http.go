package download

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// patience is with a server that sends nothing.
var patience = time.Minute

// errSilent is why a request was given up.
var errSilent = errors.New("the server sends nothing")

// status is an answer of a server that is no content.
type status int

func (s status) Error() string {
	return fmt.Sprintf("the server says %d %s", int(s), http.StatusText(int(s)))
}

// HTTP opens what is at an address, by the system's proxies and certificates. No error tells
// more of the address than its host: the rest may be secret.
func HTTP(agent, address string) Opener {
	return func(ctx context.Context, from int64, validator string) (Content, error) {
		return request(ctx, agent, address, from, validator)
	}
}

// Small is the content of a small file at an address.
func Small(ctx context.Context, agent, address string, most int64) (content []byte, err error) {
	for pause, tries := firstPause, 1; ; pause, tries = 2*pause, tries+1 {
		content, err = small(ctx, agent, address, most)
		if err == nil || tries == attempts || !temporary(err) {
			return content, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}

func small(ctx context.Context, agent, address string, most int64) ([]byte, error) {
	content, err := request(ctx, agent, address, 0, "")
	if err != nil {
		return nil, err
	}
	defer func() { _ = content.Close() }()
	all, err := io.ReadAll(io.LimitReader(content, most+1))
	if err == nil && int64(len(all)) > most {
		err = fail.New(fail.Build, "", "", "it has more than %d bytes", most)
	}
	return all, err
}

// IsMissing says that a server has answered that there is no such file.
func IsMissing(err error) bool {
	s, ok := errors.AsType[status](err)
	return ok && (s == http.StatusNotFound || s == http.StatusGone || s == http.StatusForbidden)
}

func request(ctx context.Context, agent, address string, from int64, validator string) (Content, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(patience, func() { cancel(errSilent) })
	end := func() {
		timer.Stop()
		cancel(nil)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		end()
		return Content{}, errors.New("its address cannot be asked")
	}
	r.Header.Set("User-Agent", agent)
	r.Header.Set("Accept-Encoding", "identity")
	if from > 0 {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	if from > 0 && validator != "" {
		r.Header.Set("If-Range", validator)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		cause := context.Cause(ctx)
		end()
		return Content{}, plain(err, cause)
	}
	content, err := read(answer, from)
	if err != nil {
		_ = answer.Body.Close()
		end()
		return Content{}, err
	}
	content.ReadCloser = impatient{answer.Body, ctx, timer, end}
	return content, nil
}

// plain is an error without the address that it is about.
func plain(err, cause error) error {
	if errors.Is(cause, errSilent) {
		return cause
	}
	for {
		wrapped, ok := errors.AsType[*url.Error](err)
		if !ok {
			return err
		}
		err = wrapped.Err
	}
}

// read is what an answer holds (RFC 9110, 14.4 and 15.3.7).
func read(answer *http.Response, from int64) (Content, error) {
	c := Content{Size: answer.ContentLength, Validator: answer.Header.Get("ETag")}
	if c.Validator == "" || strings.HasPrefix(c.Validator, "W/") { // no weak one may be asked for
		c.Validator = answer.Header.Get("Last-Modified")
	}
	unit, of, _ := strings.Cut(answer.Header.Get("Content-Range"), " ")
	span, size, _ := strings.Cut(of, "/")
	total, unknown := strconv.ParseInt(size, 10, 64)
	switch answer.StatusCode {
	case http.StatusOK:
		return c, nil
	case http.StatusPartialContent:
		first, _, _ := strings.Cut(span, "-")
		begins, err := strconv.ParseInt(first, 10, 64)
		if err != nil || unit != "bytes" {
			return c, errors.New("the server sends a part without saying which")
		}
		if c.From = begins; unknown != nil {
			total = -1
		}
		c.Size = total
		return c, nil
	case http.StatusRequestedRangeNotSatisfiable:
		if from > 0 && unknown == nil && total == from { // all of it is there
			_ = answer.Body.Close()
			answer.Body = http.NoBody
			return Content{From: from, Size: total, Validator: c.Validator}, nil
		}
		if from > 0 {
			return c, errors.Join(errWrong, status(answer.StatusCode))
		}
	}
	return c, status(answer.StatusCode)
}

// impatient gives up where nothing comes for too long.
type impatient struct {
	io.ReadCloser
	ctx   context.Context
	timer *time.Timer
	end   func()
}

func (i impatient) Read(p []byte) (int, error) {
	n, err := i.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = plain(err, context.Cause(i.ctx))
	}
	i.timer.Reset(patience)
	return n, err
}

func (i impatient) Close() error {
	err := i.ReadCloser.Close()
	i.end()
	return err
}

// Passing marks an error of another Opener that may pass by itself.
func Passing(err error) error { return passing{err} }

type passing struct{ error }

func (p passing) Unwrap() error { return p.error }

// temporary says whether a failure may pass by itself.
func temporary(err error) bool {
	if answered, ok := errors.AsType[status](err); ok {
		return answered >= 500 || answered == http.StatusRequestTimeout || answered == http.StatusTooManyRequests
	}
	if _, marked := errors.AsType[passing](err); marked {
		return true
	}
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &certificate) {
		return false
	}
	if name, ok := errors.AsType[*net.DNSError](err); ok {
		return name.IsTemporary || name.IsTimeout
	}
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return true
	}
	for _, known := range []error{errSilent, io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, net.ErrClosed} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

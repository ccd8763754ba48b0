package registry

import (
	"net/http"
	"strings"
	"sync"

	"github.com/btw-img/btw-img/publish/limit"
)

const mostPages = 100 // of a list

// pageLimit ends lists that never do: oras-go asks for the next page as long as the
// registry names one, and tells nobody of pages without entries.
type pageLimit struct {
	base http.RoundTripper

	mu    sync.Mutex
	pages map[string]int64 // that were asked for, by path
}

func limitPages(base http.RoundTripper) http.RoundTripper {
	return &pageLimit{base: base, pages: map[string]int64{}}
}

// RoundTrip implements http.RoundTripper.
func (l *pageLimit) RoundTrip(req *http.Request) (*http.Response, error) {
	if strings.Contains(req.URL.Path, "/referrers/") {
		if err := l.count(req.URL.Path); err != nil {
			return nil, err
		}
	}
	return l.base.RoundTrip(req)
}

func (l *pageLimit) count(path string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pages[path]++
	return limit.AtMost("pages of "+path, l.pages[path], mostPages)
}

package catalogue

import (
	"net"
	"time"
)

// Impatient is Limited with another patience.
func Impatient(l net.Listener, patience time.Duration) net.Listener {
	impatient := Limited(l).(*limited)
	impatient.patience = patience
	return impatient
}

// Limit is how many bytes are held of what was read.
func (c *Catalogue) Limit(bytes int64) { c.cache.limit = bytes }

// Held is how many images are held, and their bytes.
func (c *Catalogue) Held() (images int, bytes int64) {
	c.cache.mu.Lock()
	defer c.cache.mu.Unlock()
	return len(c.cache.images), c.cache.bytes
}

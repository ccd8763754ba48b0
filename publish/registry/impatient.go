package registry

import (
	"context"
	"net"
	"time"
)

// impatient is a connection that fails once nothing has moved on it for a while
// in either direction: nothing comes back while a disk is sent. A registry or
// proxy that hangs would otherwise hold a transfer for ever.
type impatient struct {
	net.Conn
	patience time.Duration
}

const defaultPatience = 5 * time.Minute // registries may need minutes to put a large blob in its place

type dial func(ctx context.Context, network, address string) (net.Conn, error)

// impatiently makes what d connects impatient.
func impatiently(d dial, patience time.Duration) dial {
	if patience == 0 {
		patience = defaultPatience
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		connection, err := d(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return impatient{connection, patience}, nil
	}
}

// Read implements net.Conn.
func (c impatient) Read(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.patience)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// Write implements net.Conn.
func (c impatient) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.patience)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

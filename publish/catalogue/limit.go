package catalogue

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// Limits on those who ask. Who is refused a connection is to come again: clients of
// registries do.
const (
	mostConnections = 256
	mostOfOneClient = 128 // connections from one address, which may be a proxy's; this machine itself may use all
	patience        = time.Minute
	mostHeaderBytes = 16 << 10
)

// Server is an HTTP server for the catalogue that nobody can hold for long: requests
// come whole and soon, and who takes an answer takes some of it each minute. It speaks
// HTTP/1 alone: with HTTP/2, one connection holds many answers that nobody takes.
func (c *Catalogue) Server() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Protocols: protocols,
		Handler:   withoutBody(c), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: mostHeaderBytes,
	}
}

// withoutBody closes the connection on which a request sends a body: what is read
// has none, and one may never end.
func withoutBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			w.Header().Set("Connection", "close")
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(time.Second)) // or it waits for its end
		}
		next.ServeHTTP(w, r)
	})
}

// Limited is a listener with a limit on connections, each of which ends when
// nothing that is sent on it arrives.
func Limited(l net.Listener) net.Listener {
	return &limited{Listener: l, patience: patience, clients: map[string]int{}}
}

type limited struct {
	net.Listener
	patience time.Duration // with who takes nothing of an answer

	mu      sync.Mutex
	all     int
	clients map[string]int
}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	for {
		connection, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		client, ok := l.enter(connection.RemoteAddr())
		if !ok {
			_ = connection.Close()
			continue
		}
		return &patient{Conn: connection, patience: l.patience, left: sync.OnceFunc(func() { l.leave(client) })}, nil
	}
}

// enter counts a connection, "" for one of this machine itself.
func (l *limited) enter(from net.Addr) (client string, ok bool) {
	if tcp, known := from.(*net.TCPAddr); known && !tcp.IP.IsLoopback() {
		client = network(tcp.IP)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= mostConnections || client != "" && l.clients[client] >= mostOfOneClient {
		return "", false
	}
	l.all++
	l.clients[client]++
	return client, true
}

// network is what one client has of addresses: a whole /64 with IPv6.
func network(ip net.IP) string {
	if ip.To4() == nil {
		ip = ip.Mask(net.CIDRMask(64, 128))
	}
	return ip.String()
}

func (l *limited) leave(client string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.clients[client]--; l.clients[client] == 0 {
		delete(l.clients, client)
	}
}

// patient is a connection on which each write has its own time: a large blob on a slow
// line takes hours, some of it never a minute.
type patient struct {
	net.Conn
	patience time.Duration
	left     func()
}

// Write implements net.Conn.
func (p *patient) Write(b []byte) (int, error) {
	if err := p.SetWriteDeadline(time.Now().Add(p.patience)); err != nil {
		return 0, err
	}
	return p.Conn.Write(b)
}

// Close implements net.Conn.
func (p *patient) Close() error {
	p.left()
	return p.Conn.Close()
}

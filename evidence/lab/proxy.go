package lab

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// A Proxy forwards TCP connections that come to it on loopback, each to one of
// its backends, in turn. It knows nothing of what it forwards.
type Proxy struct {
	listener net.Listener
	done     sync.WaitGroup

	mu       sync.Mutex
	backends []string // host:port
	turn     int
	cut      bool
	open     map[net.Conn]bool
}

// mostConnections is how many a proxy forwards at once; further ones are closed.
const mostConnections = 1000

// NewProxy starts a proxy in front of the backends, which are host:port.
func NewProxy(ctx context.Context, backends ...string) (*Proxy, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{listener: l, backends: backends, open: map[net.Conn]bool{}}
	p.done.Go(p.accept)
	return p, nil
}

// Address is where the proxy listens, as host:port.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Use has new connections go to these backends. Those that are open go on.
func (p *Proxy) Use(backends ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.backends = backends
}

// Cut closes every connection, and new ones as they come, until Restore.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	for c := range p.open {
		_ = c.Close() // whoever reads it sees that
	}
}

// Restore ends Cut.
func (p *Proxy) Restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = false
}

// Close ends the proxy and its connections, and waits for them.
func (p *Proxy) Close() error {
	err := p.listener.Close()
	p.Cut()
	p.done.Wait()
	return err
}

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // that connection is gone
		}
		backend, ok := p.enter(c)
		if !ok {
			_ = c.Close() // it is refused
			continue
		}
		p.done.Go(func() { p.forward(c, backend) })
	}
}

// enter notes an open connection, and says where it goes.
func (p *Proxy) enter(c net.Conn) (backend string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut || len(p.open) >= 2*mostConnections || len(p.backends) == 0 {
		return "", false
	}
	p.open[c] = true
	p.turn++
	return p.backends[p.turn%len(p.backends)], true
}

// also notes the other half of a connection, unless all were cut meanwhile.
func (p *Proxy) also(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.cut {
		p.open[c] = true
	}
	return !p.cut
}

func (p *Proxy) leave(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
	_ = c.Close() // it may have been closed
}

func (p *Proxy) forward(from net.Conn, backend string) {
	defer p.leave(from)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	to, err := new(net.Dialer).DialContext(ctx, "tcp", backend)
	if err != nil {
		return
	}
	defer p.leave(to)
	if !p.also(to) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { pour(to, from) })
	both.Go(func() { pour(from, to) })
	both.Wait()
}

// pour forwards one direction to its end, and says so to the other side.
func pour(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		_ = to.Close() // it broke off: so does the other side
		_ = from.Close()
		return
	}
	if half, ok := to.(*net.TCPConn); ok {
		_ = half.CloseWrite() // it may have been closed
	}
}

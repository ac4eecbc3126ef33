package lab_test

import (
	"bufio"
	"context"
	"net"
	"strings"
	"testing"

	"certctl/evidence/lab"
	"certctl/server/pg/pgtest"
)

// echo serves connections that are answered with its name and what they said.
func echo(t *testing.T, name string) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				for lines := bufio.NewScanner(c); lines.Scan(); {
					_, _ = c.Write([]byte(name + " " + lines.Text() + "\n"))
				}
				_ = c.Close()
			}()
		}
	}()
	return l.Addr().String()
}

// a line is a connection through the proxy.
type line struct {
	net.Conn
	*bufio.Reader
}

func dial(t *testing.T, p *lab.Proxy) line {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", p.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return line{c, bufio.NewReader(c)}
}

// say returns the answer, or "" if there is none.
func (l line) say(what string) string {
	if _, err := l.Write([]byte(what + "\n")); err != nil {
		return ""
	}
	answer, err := l.ReadString('\n')
	if err != nil {
		return ""
	}
	return strings.TrimSpace(answer)
}

func TestProxyForwardsCutsAndRestores(t *testing.T) {
	a, b := echo(t, "a"), echo(t, "b")
	p, err := lab.NewProxy(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	first := dial(t, p)
	if got := first.say("one"); got != "a one" {
		t.Fatalf("it answers %q", got)
	}
	p.Use(b)
	if got := dial(t, p).say("two"); got != "b two" {
		t.Errorf("a new connection gets %q", got)
	}
	if got := first.say("three"); got != "a three" {
		t.Errorf("the connection to a backend that is used no more gets %q", got)
	}
	p.Cut()
	if got := first.say("four"); got != "" {
		t.Errorf("a connection that was cut gets %q", got)
	}
	if got := dial(t, p).say("five"); got != "" {
		t.Errorf("a new connection gets %q while all are cut", got)
	}
	p.Restore()
	if got := dial(t, p).say("six"); got != "b six" {
		t.Errorf("after it was restored a connection gets %q", got)
	}
	p.Use(a, b)
	answers := map[string]bool{}
	for range 4 {
		answers[dial(t, p).say("")] = true
	}
	if len(answers) != 2 {
		t.Errorf("of two backends it uses %v", answers)
	}
}

func TestAnOpenConnectionDoesNotKeepAProxyFromClosing(t *testing.T) {
	p, err := lab.NewProxy(t.Context(), echo(t, "a"))
	if err != nil {
		t.Fatal(err)
	}
	open := dial(t, p)
	if got := open.say("one"); got != "a one" {
		t.Fatalf("it answers %q", got)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if got := open.say("two"); got != "" {
		t.Errorf("after it was closed it answers %q", got)
	}
	pgtest.Eventually(t, "nobody listens", func() bool {
		c, err := new(net.Dialer).DialContext(context.WithoutCancel(t.Context()), "tcp", p.Address())
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
}

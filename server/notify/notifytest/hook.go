package notifytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"time"

	"certctl/server/notify/webhook"
)

// HookSink is a receiver of posts, which verifies their signatures.
type HookSink struct {
	*book
	URL           string
	CA            string // that its certificate is from, in PEM
	Secret        string
	Authorization string

	srv     *http.Server
	refused int
	status  int // of every answer, if it is not 0
	headers map[string]string
}

// NewHookSink starts a receiver.
func NewHookSink() (*HookSink, error) {
	config, ca, err := certify()
	if err != nil {
		return nil, err
	}
	l, err := listen()
	if err != nil {
		return nil, err
	}
	s := &HookSink{
		book: newBook(), URL: "https://" + l.Addr().String() + "/hook", CA: ca,
		Secret: "secret-of-the-hook-sink", Authorization: "Bearer token-of-the-hook-sink",
	}
	s.srv = &http.Server{
		Handler: s, TLSConfig: config, ReadHeaderTimeout: time.Minute,
		ErrorLog: log.New(io.Discard, "", 0), // callers that go away are what it is for
	}
	go func() { _ = s.srv.ServeTLS(l, "", "") }() // until Close
	return s, nil
}

// Settings are those of a webhook that posts to the sink.
func (s *HookSink) Settings() json.RawMessage {
	raw, _ := json.Marshal(map[string]any{ // texts and a number
		"url": s.URL, "ca": s.CA, "secret": s.Secret, "authorization": s.Authorization, "timeout_seconds": 30,
	})
	return raw
}

// Secrets are what no error may hold.
func (s *HookSink) Secrets() []string {
	return []string{s.Secret, s.Authorization, "token-of-the-hook-sink", s.URL}
}

// Answer has every post be answered with a status and headers; none is taken. A
// status of 0 ends that.
func (s *HookSink) Answer(status int, headers map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status, s.headers = status, maps.Clone(headers)
}

// Refused is how many posts came that were not signed as they should be, or did
// not have the authorization.
func (s *HookSink) Refused() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
}

// Close ends the sink and its connections.
func (s *HookSink) Close() error {
	s.close()
	return s.srv.Close()
}

// ServeHTTP takes a post. Whatever it answers repeats the secrets, as a receiver
// that shows what it was sent would.
func (s *HookSink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	reply := func(status int) {
		w.WriteHeader(status)
		fmt.Fprintf(w, "%s %s %s", r.Header.Get("Authorization"), s.Secret, body) //nolint:gosec // what is said is for programs that must not repeat it
	}
	s.mu.Lock()
	status := s.status
	for name, value := range s.headers {
		w.Header().Set(name, value)
	}
	s.mu.Unlock()
	if status != 0 {
		reply(status)
		return
	}
	var post webhook.Post
	err = webhook.Verify(s.Secret, r.Header, body, time.Now())
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(body))
		d.DisallowUnknownFields()
		err = d.Decode(&post)
	}
	if err != nil || r.Method != http.MethodPost || r.Header.Get("Authorization") != s.Authorization || r.Header.Get("Idempotency-Key") != `"`+post.ID+`"` {
		s.mu.Lock()
		s.refused++
		s.mu.Unlock()
		reply(http.StatusUnauthorized)
		return
	}
	mode, ok := s.take(Delivery{
		Key: post.ID, Event: post.Event, Severity: post.Severity, Happened: post.At,
		Subject: post.Subject, Text: post.Text, Data: post.Data,
	}, r.Context().Done())
	switch {
	case !ok:
		panic(http.ErrAbortHandler)
	case mode == NotNow:
		reply(http.StatusServiceUnavailable)
	case mode == Never:
		reply(http.StatusUnprocessableEntity)
	default:
		reply(http.StatusAccepted)
	}
}

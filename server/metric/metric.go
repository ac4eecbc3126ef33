// Package metric declares every metric of the server and keeps their values.
package metric

import (
	"net/http"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"certctl/server/table"
)

// A Metric is one row: a family of time series.
type Metric struct {
	Name   string   `json:"name"`
	Kind   Kind     `json:"kind"`
	Help   string   `json:"help"`
	Labels []string `json:"labels,omitempty"`

	buckets []float64
}

// Kind says how a metric moves.
type Kind string

// The kinds of metric.
const (
	Counter   Kind = "counter"   // only grows, from zero at the start of the process
	Gauge     Kind = "gauge"     // goes up and down
	Histogram Kind = "histogram" // counts observations in buckets
)

var metrics = table.By(func(m *Metric) string { return m.Name })

// All returns every metric, in declaration order.
func All() []*Metric { return metrics.Rows() }

func declare(kind Kind, name, help string, labels ...string) *Metric {
	return metrics.Add(&Metric{Name: name, Kind: kind, Help: help, Labels: labels})
}

// A Set holds the values of one process.
type Set struct {
	registry   *prometheus.Registry
	counters   map[*Metric]*prometheus.CounterVec
	gauges     map[*Metric]*prometheus.GaugeVec
	histograms map[*Metric]*prometheus.HistogramVec
}

// New returns a set with every declared metric at zero, beside the Go
// runtime's and the process's own.
func New() *Set {
	s := &Set{
		prometheus.NewRegistry(),
		map[*Metric]*prometheus.CounterVec{},
		map[*Metric]*prometheus.GaugeVec{},
		map[*Metric]*prometheus.HistogramVec{},
	}
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, m := range metrics.Rows() {
		switch m.Kind {
		case Counter:
			s.counters[m] = prometheus.NewCounterVec(prometheus.CounterOpts{Name: m.Name, Help: m.Help}, m.Labels)
			s.registry.MustRegister(s.counters[m])
		case Gauge:
			s.gauges[m] = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: m.Name, Help: m.Help}, m.Labels)
			s.registry.MustRegister(s.gauges[m])
		case Histogram:
			s.histograms[m] = prometheus.NewHistogramVec(
				prometheus.HistogramOpts{Name: m.Name, Help: m.Help, Buckets: m.buckets}, m.Labels,
			)
			s.registry.MustRegister(s.histograms[m])
		}
		if len(m.Labels) == 0 {
			s.Init(m)
		}
	}
	return s
}

// Init shows the series of m with these label values at zero, so that a rate
// over it exists before its first event.
func (s *Set) Init(m *Metric, labels ...string) {
	switch m.Kind {
	case Counter:
		s.counters[m].WithLabelValues(labels...)
	case Gauge:
		s.gauges[m].WithLabelValues(labels...)
	case Histogram:
		s.histograms[m].WithLabelValues(labels...)
	}
}

// Add moves the counter m up by n.
func (s *Set) Add(m *Metric, n float64, labels ...string) {
	s.counters[m].WithLabelValues(labels...).Add(n)
}

// Set moves the gauge m to v.
func (s *Set) Set(m *Metric, v float64, labels ...string) {
	s.gauges[m].WithLabelValues(labels...).Set(v)
}

// Observe adds one observation of v to the histogram m.
func (s *Set) Observe(m *Metric, v float64, labels ...string) {
	s.histograms[m].WithLabelValues(labels...).Observe(v)
}

// Handler serves the set in the Prometheus exposition format. before runs at
// each scrape, to set gauges that are read rather than counted.
func (s *Set) Handler(before func(*http.Request)) http.Handler {
	h := promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		before(r)
		h.ServeHTTP(w, r)
	})
}

// seconds are the buckets of a duration: a tenth of a millisecond to a minute.
func seconds(m *Metric) *Metric {
	m.buckets = slices.Concat(prometheus.ExponentialBuckets(0.0001, 4, 10), []float64{60})
	return m
}

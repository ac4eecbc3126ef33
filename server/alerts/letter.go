package alerts

import (
	_ "embed"
	"fmt"
	"html/template"
	"strings"
	"time"
	"unicode/utf8"

	"certctl/server/outbox"
)

// Words are what a notification says.
type Words struct{ Subject, Text, HTML string }

// A letter is what there is to say, before it is text or HTML.
type letter struct {
	Subject  string
	Title    string // the subject where it stands alone
	Severity string
	Says     []string // paragraphs
	Do       string
	Facts    []fact
	Sections []section
	Foot     string
}

type fact struct{ Name, Value string }

// A section is a list under a heading.
type section struct {
	Heading string
	Head    []string
	Rows    [][]string
	Note    string // below the list, or in its place
}

// add appends a fact that is known.
func (l *letter) add(name, value string) {
	if value != "" {
		l.Facts = append(l.Facts, fact{name, value})
	}
}

//go:embed letter.html
var letterHTML string

var page = template.Must(template.New("letter").Parse(letterHTML))

// Colour is that of the letter's severity, dark enough to be read on white.
func (l *letter) Colour() string {
	switch l.Severity {
	case outbox.Critical.Name:
		return "#b42318"
	case outbox.Warning.Name:
		return "#8a5a00"
	}
	return "#0b5cad"
}

// subject is one line.
func (l *letter) subject() string { return strings.Join(strings.Fields(l.Subject), " ") }

// words renders the letter.
func (l *letter) words() (Words, error) {
	l.Subject = l.subject()
	if l.Title == "" {
		l.Title = l.Subject
	}
	var html strings.Builder
	if err := page.Execute(&html, l); err != nil {
		return Words{}, err
	}
	return Words{l.Subject, l.text(), html.String()}, nil
}

func (l *letter) text() string {
	var b strings.Builder
	for _, s := range l.Says {
		fmt.Fprintf(&b, "%s\n\n", s)
	}
	if l.Do != "" {
		fmt.Fprintf(&b, "What to do: %s\n\n", l.Do)
	}
	if len(l.Facts) > 0 {
		rows := [][]string{}
		for _, f := range l.Facts {
			rows = append(rows, []string{f.Name, f.Value})
		}
		columns(&b, rows)
		b.WriteString("\n")
	}
	for _, s := range l.Sections {
		fmt.Fprintf(&b, "%s\n", s.Heading)
		if len(s.Rows) > 0 {
			columns(&b, append([][]string{s.Head}, s.Rows...))
		}
		if s.Note != "" {
			fmt.Fprintf(&b, "  %s\n", s.Note)
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "-- \n%s\n", l.Foot)
	return b.String()
}

// columns writes rows whose cells stand below each other. One that is very long
// moves only what follows it.
func columns(b *strings.Builder, rows [][]string) {
	const widest = 40
	var widths []int
	for _, row := range rows {
		for n, cell := range row {
			if n == len(widths) {
				widths = append(widths, 0)
			}
			widths[n] = max(widths[n], min(utf8.RuneCountInString(cell), widest))
		}
	}
	for _, row := range rows {
		line := " "
		for n, cell := range row {
			line += " " + cell + strings.Repeat(" ", max(widths[n]-utf8.RuneCountInString(cell), 0)+1)
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}

// day is a date as people write it.
func day(t time.Time) string { return t.UTC().Format("2 January 2006") }

// moment is a date with the time.
func moment(t time.Time) string { return t.UTC().Format("2 January 2006 at 15:04 UTC") }

// span is a length of time in the unit that fits, rounded down.
func span(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return count(int64(d/(24*time.Hour)), "day", "days")
	case d >= 2*time.Hour:
		return count(int64(d/time.Hour), "hour", "hours")
	default:
		return count(int64(max(d, 0)/time.Minute), "minute", "minutes")
	}
}

func count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

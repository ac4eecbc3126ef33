package probe

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"certctl/evidence"
)

// Run looks at the site for each experiment, ends the base, and looks at copies
// of it with each defect. stop ends the base: copies are made of a database that
// nobody uses.
func Run(ctx context.Context, probes []Probe, site, base *Site, stop func() error, say func(string)) ([]evidence.Observation, error) {
	seen := make([]evidence.Observation, len(probes))
	work := crew{say: say, quick: base.Quick}
	for i, p := range probes {
		work.add(p.Of.ID, p.Alone, func() { seen[i] = p.Observe(ctx, site) })
	}
	records := map[evidence.Test]evidence.TestRecord{}
	if cited := citedBy(probes); len(cited) > 0 {
		work.add("the tests that claims cite", false, func() { records = runTests(ctx, site, cited) })
	}
	work.do()
	for i, p := range probes {
		for _, t := range p.Of.Tests {
			seen[i].Tests = append(seen[i].Tests, records[t])
		}
	}
	if err := stop(); err != nil {
		return nil, err
	}
	work = crew{say: say, quick: true} // controls are done once, whatever the run
	for i, p := range probes {
		if seen[i].Skipped != "" {
			continue // a control of nothing
		}
		seen[i].Controls = make([]evidence.ControlObservation, len(p.Controls))
		for j, d := range p.Controls {
			work.add(p.Of.ID+", control: "+d.Says, p.Alone, func() { seen[i].Controls[j] = p.Control(ctx, base, d) })
		}
	}
	work.do()
	// A control shows that an experiment can fail. One that did not, among others
	// that kept the machine busy, is done again by itself, and the observation says so.
	work = crew{say: say}
	for i, p := range probes {
		for j, c := range p.Of.Receipt(base.Declared, "", seen[i]).Controls {
			if !c.Holds() {
				work.add(p.Of.ID+", control again: "+c.Defect, true, func() {
					seen[i].Controls[j] = p.Control(ctx, base, p.Controls[j])
					seen[i].Controls[j].Again = true
				})
			}
		}
	}
	work.do()
	return seen, ctx.Err()
}

// citedBy are the tests that the claims of experiments cite, each once.
func citedBy(probes []Probe) (cited []evidence.Test) {
	for _, p := range probes {
		for _, t := range p.Of.Tests {
			if !slices.Contains(cited, t) {
				cited = append(cited, t)
			}
		}
	}
	return cited
}

// runTests returns a record of each test, whatever became of it.
func runTests(ctx context.Context, s *Site, cited []evidence.Test) map[evidence.Test]evidence.TestRecord {
	all := map[evidence.Test]evidence.TestRecord{}
	var records []evidence.TestRecord
	err := errors.New("there is no source tree")
	if s.Tests != nil {
		records, err = s.Tests(ctx, cited)
	}
	for _, t := range cited {
		all[t] = evidence.TestRecord{Test: t, Outcome: evidence.TestNotRun, Why: "nothing was recorded of it"}
		if err != nil {
			all[t] = evidence.TestRecord{Test: t, Outcome: evidence.TestNotRun, Why: brief(err)}
		}
	}
	for _, r := range records {
		if err == nil {
			all[r.Test] = r
		}
	}
	return all
}

// A crew does experiments, several at once if they are quick: most of them wait
// most of the time.
type crew struct {
	say   func(string)
	quick bool
	tasks []task
}

type task struct {
	name  string
	alone bool
	do    func()
}

func (c *crew) add(name string, alone bool, do func()) {
	c.tasks = append(c.tasks, task{name, alone, do})
}

// atATime is how many experiments are done at once: in a full run, whose figures
// are worth more than its time, one by one.
func (c *crew) atATime() int {
	if c.quick {
		return 1 + runtime.NumCPU()
	}
	return 1
}

// do does all tasks, those that measure times in the end and one by one.
func (c *crew) do() {
	slices.SortStableFunc(c.tasks, func(a, b task) int {
		switch {
		case a.alone == b.alone:
			return 0
		case b.alone:
			return -1
		}
		return 1
	})
	var mu sync.Mutex
	begun := 0
	begin := func(t task) {
		mu.Lock()
		defer mu.Unlock()
		begun++
		c.say(fmt.Sprintf("%d of %d: %s", begun, len(c.tasks), t.name))
	}
	var wg sync.WaitGroup
	seats := make(chan struct{}, c.atATime())
	for _, t := range c.tasks {
		if t.alone {
			wg.Wait()
			begin(t)
			t.do()
			continue
		}
		seats <- struct{}{}
		wg.Go(func() {
			defer func() { <-seats }()
			begin(t)
			t.do()
		})
	}
	wg.Wait()
}

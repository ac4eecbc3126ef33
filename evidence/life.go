package evidence

import (
	"strconv"

	"certctl/server/api"
	"certctl/server/connector"
)

// statesTable sets states beside what is so in them and what may follow.
func (p *page) statesTable(states []api.DeclaredState) {
	var rows [][]string
	for _, s := range states {
		rows = append(rows, []string{code(s.Name), text(s.Does), codes(s.Moves, "none; it is the end")})
	}
	p.grid([]string{"state", "what is so", "what may follow"}, rows)
}

// diagram draws states and their moves; the first state is where it begins.
func (p *page) diagram(states []api.DeclaredState) {
	if len(states) == 0 {
		return
	}
	p.printf("```mermaid\nstateDiagram-v2\n    [*] --> %s\n", states[0].Name)
	for _, s := range states {
		for _, to := range s.Moves {
			p.printf("    %s --> %s\n", s.Name, to)
		}
		if len(s.Moves) == 0 {
			p.printf("    %s --> [*]\n", s.Name)
		}
	}
	p.printf("```\n\n")
}

func statesBlock(p *page, in Inputs) (string, error) {
	p.statesTable(in.Declared.CertStates)
	return "", nil
}

func movesBlock(p *page, in Inputs) (string, error) {
	p.diagram(in.Declared.CertStates)
	return "", nil
}

func jobStatesBlock(p *page, in Inputs) (string, error) {
	p.statesTable(in.Declared.JobStates)
	return "", nil
}

func jobMovesBlock(p *page, in Inputs) (string, error) {
	p.diagram(in.Declared.JobStates)
	return "", nil
}

func reasonsBlock(p *page, in Inputs) (string, error) {
	var rows [][]string
	for _, r := range in.Declared.Reasons {
		rows = append(rows, []string{code(r.Name), strconv.Itoa(r.Code), text(r.Does)})
	}
	p.grid([]string{"reason", "code (RFC 5280 §5.3.1)", "what it says"}, rows)
	return "", nil
}

func jobKindsBlock(p *page, in Inputs) (string, error) {
	var rows [][]string
	for _, k := range in.Declared.JobKinds {
		rows = append(rows, []string{
			code(k.Name), text(k.Does), strconv.Itoa(k.Attempts), short(k.RetryEvery), short(k.Timeout), strconv.Itoa(k.Priority),
		})
	}
	p.grid([]string{"kind", "what it does", "attempts", "first retry after", "timeout of an attempt", "priority"}, rows)
	return "", nil
}

// described is a list of names with what each does.
func (p *page) described(head, does string, rows []api.DeclaredWord) {
	var cells [][]string
	for _, r := range rows {
		cells = append(cells, []string{code(r.Name), text(r.Does)})
	}
	p.grid([]string{head, does}, cells)
}

func bulkActionsBlock(p *page, in Inputs) (string, error) {
	var rows [][]string
	for _, a := range in.Declared.BulkActions {
		rows = append(rows, []string{code(a.Name), text(a.Does), code(a.Permission)})
	}
	p.grid([]string{"action", "what it does", "permission that it needs too"}, rows)
	return "", nil
}

func rulesBlock(p *page, in Inputs) (string, error) {
	p.described("rule", "what it refuses", in.Declared.Rules)
	return "", nil
}

func keyAlgorithmsBlock(p *page, in Inputs) (string, error) {
	p.described("algorithm", "what it means", in.Declared.KeyAlgorithms)
	return "", nil
}

func usagesBlock(p *page, in Inputs) (string, error) {
	p.described("purpose", "what it means", in.Declared.ExtKeyUsages)
	return "", nil
}

func sanKindsBlock(p *page, in Inputs) (string, error) {
	p.described("kind", "what it means", in.Declared.SANKinds)
	return "", nil
}

func issuerTypesBlock(p *page, in Inputs) (string, error) {
	for _, t := range in.Declared.IssuerTypes {
		p.entry(code(t.Name))
		p.paragraph(text(t.Does))
		p.paragraph("What it can do beside signing: " + codes(t.Can, "nothing") + ".")
		p.settings(t.Settings)
	}
	return "", nil
}

// settings are those of a type of connector.
func (p *page) settings(all []connector.Field) {
	var rows [][]string
	for _, f := range all {
		kind := f.Type
		if f.Secret {
			kind += ", secret"
		}
		if f.Fixed {
			kind += ", fixed once created"
		}
		rows = append(rows, []string{code(f.Name), kind, code(f.Default), text(f.Bounds), text(f.Does)})
	}
	p.grid([]string{"setting", "type", "default", "values", "what it does"}, rows)
}

func severitiesBlock(p *page, in Inputs) (string, error) {
	var rows [][]string
	for _, s := range in.Declared.Severities {
		rows = append(rows, []string{code(s.Name), text(s.Does)})
	}
	p.grid([]string{"severity, the least first", "what it means"}, rows)
	return "", nil
}

func eventsBlock(p *page, in Inputs) (string, error) {
	var rows [][]string
	for _, e := range in.Declared.Events {
		rows = append(rows, []string{code(e.Name), text(e.Does), text(e.Severity)})
	}
	p.grid([]string{"event", "what has happened", "severity"}, rows)
	return "", nil
}

func notificationStatesBlock(p *page, in Inputs) (string, error) {
	p.statesTable(in.Declared.NotificationStates)
	return "", nil
}

func notificationMovesBlock(p *page, in Inputs) (string, error) {
	p.diagram(in.Declared.NotificationStates)
	return "", nil
}

func channelTypesBlock(p *page, in Inputs) (string, error) {
	for _, t := range in.Declared.ChannelTypes {
		p.entry(code(t.Name))
		p.paragraph(text(t.Does))
		p.settings(t.Settings)
	}
	if len(in.Declared.ChannelTypes) == 0 {
		p.paragraph("This build has no type of channel.")
	}
	return "", nil
}

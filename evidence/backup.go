package evidence

import (
	"encoding/json"
	"math/big"
	"strings"

	"certctl/server/api"
	"certctl/server/audit"
)

// BackupHolds is the claim about backups.
var BackupHolds = statement("backup/restore",
	"A server that starts on a restored pg_dump, with the same encryption key, has an audit log that agrees with a checkpoint which was kept outside since "+
		"before the dump, opens the keys that were made before, and lists everything that was revoked before. What was done after the dump is lost; yet the next "+
		"revocation list has a larger number than any list that was served, and no serial number that was used is used again.",
	judgeBackup, "audit.VerifyStream", "revocation.Revocations.Generate", "cert.NewSerial", "seal.Box")

// BackupSeen is a server before its database was dumped and lost, and after it was
// restored.
type BackupSeen struct {
	PIDs    [2]int    `json:"pids"`
	Trail   TrailSeen `json:"trail"`   // of the restored server, with the checkpoint from before the dump
	Revoked []string  `json:"revoked"` // serials, before the dump
	List    ListSeen  `json:"list"`    // the first that the restored server has signed
	Served  []string  `json:"served"`  // numbers of lists before it was lost, decimal
	Number  string    `json:"number"`  // of the first that the restored server has signed
	Used    []string  `json:"used"`    // serials before it was lost
	Serials []string  `json:"serials"` // that the restored server has used
	Key     string    `json:"key"`     // why one that was made before the dump does not open
}

// The checks of a restored backup that a defect turns red.
const (
	RestoredTrail = "audit log, and the checkpoint from before the dump"
	StillRevoked  = "revoked before the dump, and not listed"
)

func judgeBackup(_ api.Declared, seen json.RawMessage) ([]Check, error) {
	var s BackupSeen
	if err := json.Unmarshal(seen, &s); err != nil {
		return nil, err
	}
	report, err := audit.VerifyStream(strings.NewReader(s.Trail.Export),
		audit.Options{Verifiers: []string{s.Trail.Verifier}, Checkpoints: []string{s.Trail.Checkpoint}})
	if err != nil {
		return nil, err
	}
	const agrees, opens = "intact, and it agrees", "opens"
	trail := agrees
	if !report.Intact() || report.Outside != 1 {
		trail = report.String()
	}
	key := opens
	if s.Key != "" {
		key = s.Key
	}
	larger := len(s.Served) > 0
	number, ok := new(big.Int).SetString(s.Number, 10)
	for _, n := range s.Served {
		was, read := new(big.Int).SetString(n, 10)
		larger = larger && ok && read && number.Cmp(was) > 0
	}
	return []Check{
		check("processes", "two", map[bool]string{true: "two", false: "not two"}[s.PIDs[0] > 0 && s.PIDs[1] > 0 && s.PIDs[0] != s.PIDs[1]]),
		check(RestoredTrail, agrees, trail),
		some("revoked before the dump", len(s.Revoked)),
		check("list that the restored server signs", ListOK, s.List.OpenSSL),
		check(StillRevoked, none, other(without(s.Revoked, s.List.Serials))),
		check("its number is larger than those of all lists before", "yes", yes(larger)),
		some("serial numbers that the restored server uses", len(s.Serials)),
		check("of them used before", none, other(without(s.Serials, without(s.Serials, s.Used)))),
		check("key that was made before the dump", opens, key),
	}, nil
}

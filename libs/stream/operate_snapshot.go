package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/step"
)

// Manifest describes a snapshot: a directory with one base of each partition and
// this, as manifest.json.
type Manifest struct {
	Format     int             `json:"format"`
	Taken      time.Time       `json:"taken"`
	Partitions []SnapshotPart  `json:"partitions"`
	Processors []SnapshotTopic `json:"processors"`
}

// SnapshotTopic is one processor in a snapshot.
type SnapshotTopic struct {
	Processor   string `json:"processor"`
	Topic       string `json:"topic"`
	Log         string `json:"log"`
	Partitions  int    `json:"partitions"`
	FoldVersion int    `json:"fold_version"` // of the program that took it
}

// SnapshotPart is one partition in a snapshot.
type SnapshotPart struct {
	Processor  string `json:"processor"`
	Partition  int32  `json:"partition"`
	Next       int64  `json:"next"`
	Mark       int64  `json:"mark"` // emission mark; -1: none
	Entities   int    `json:"entities"`
	Waiting    int    `json:"waiting"` // records that wait for their time
	Silent     string `json:"silent,omitempty"`
	Incomplete bool   `json:"incomplete,omitempty"`
	Digest     string `json:"digest"`
	Restored   bool   `json:"restored,omitempty"` // of a restore: written, read again and equal
}

// snapshotFormat is the version of the directory.
const snapshotFormat = 1

const manifestName = "manifest.json"

// archiver is a folder that can tell what waits.
type archiver interface {
	Archive() step.LogAppend
}

// Save takes a snapshot of the processors' state into a directory, which has to
// be empty or missing. Their owners may run: each partition is as it was at one
// moment. Each is called with every partition.
func (o *Operator) Save(ctx context.Context, ps []Processor, dir string, each func(SnapshotPart)) (*Manifest, error) {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return nil, fmt.Errorf("save a snapshot: %s is not empty", dir)
	}
	bases, err := state.NewBases(dir)
	if err != nil {
		return nil, err
	}
	m := &Manifest{Format: snapshotFormat, Taken: time.Now().UTC()}
	for _, p := range ps {
		n, err := o.Client.Partitions(ctx, p.Topic)
		if err != nil {
			return nil, err
		}
		var log string
		for i := range int32(n) {
			f, err := o.frame(ctx, p, i)
			if err != nil {
				return nil, err
			}
			log = f.logID
			part, err := o.save(ctx, f, bases)
			if errors.Is(err, ErrNothing) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("save %s/%d: %w", p.Name, i, err)
			}
			m.Partitions = append(m.Partitions, part)
			each(part)
		}
		m.Processors = append(m.Processors, SnapshotTopic{Processor: p.Name, Topic: p.Topic, Log: log, Partitions: n, FoldVersion: p.FoldVersion})
	}
	if len(m.Partitions) == 0 {
		return nil, fmt.Errorf("save a snapshot: %w", ErrNothing)
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the manifest: %w", err)
	}
	// Last: a directory without it is no snapshot.
	if err := writeFile(filepath.Join(dir, manifestName), append(data, '\n')); err != nil {
		return nil, fmt.Errorf("write the manifest: %w", err)
	}
	return m, nil
}

// writeFile writes a file that is on disk, whole, or not there.
func writeFile(name string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), "tmp-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}

func (o *Operator) save(ctx context.Context, f frame, bases *state.Bases) (SnapshotPart, error) {
	part := SnapshotPart{Processor: f.p.Name, Partition: f.partition, Mark: -1}
	held, fence, err := settled(ctx, o.Store, f.p, f.partition)
	if err != nil {
		return part, err
	}
	if held.Fence == "" {
		return part, ErrNothing
	}
	if fence.LogID != f.logID {
		return part, fmt.Errorf("%w (state of %s, log %s)", step.ErrOtherLog, fence.LogID, f.logID)
	}
	// Read behind the state: whatever has been published by then, a state that is
	// restored from here must not publish again.
	marks, err := o.Client.Committed(ctx, f.p.Group(), f.p.Topic)
	if err != nil {
		return part, err
	}
	mark, err := step.ParseMark(marks[f.partition].Metadata)
	if known := err == nil && mark.LogID == f.logID; known {
		part.Mark = mark.Offset
	}
	waiting, folder, err := o.waiting(ctx, f, held, fence)
	if err != nil {
		return part, err
	}
	held.Logs = slices.DeleteFunc(held.Logs, func(l step.LogAppend) bool { return l.Name == waiting.Name })
	if waiting.Data != nil {
		held.Logs = append(held.Logs, waiting)
	}
	fence.Low = fence.Next
	held.Fence = fence.String()
	sortEntities(held.Entities)
	status := folder.Status()
	part.Next, part.Waiting, part.Silent, part.Incomplete = fence.Next, status.Waiting, string(fence.Voice.Silent), len(status.Incomplete) > 0
	part.Entities, part.Digest = status.Entities, digest(held.Entities)
	text := ""
	if part.Mark >= 0 {
		text = mark.String()
	}
	return part, bases.Save(f.tag(), fence.Next, held, text)
}

func sortEntities(all []step.Entity) {
	slices.SortFunc(all, func(a, b step.Entity) int {
		switch {
		case a.Key < b.Key:
			return -1
		case a.Key > b.Key:
			return 1
		}
		return 0
	})
}

// waiting reads what waits for its time out of the log, so that the snapshot does
// not need it.
func (o *Operator) waiting(ctx context.Context, f frame, held step.State, fence step.Fence) (step.LogAppend, step.Folder, error) {
	folder := f.p.New(f.p.Config(f.logID, f.partition, f.partitions))
	if err := folder.Restore(held, fence); err != nil {
		return step.LogAppend{}, nil, err
	}
	if fence.Low < f.start {
		return step.LogAppend{}, nil, fmt.Errorf("the log begins at %d, and what waits needs it from %d on: %w", f.start, fence.Low, broker.ErrOutOfRange)
	}
	for at := fence.Low; at < fence.Next; {
		got, err := o.Client.Fetch(ctx, []broker.PartitionOffset{{Topic: f.p.Topic, Partition: f.partition, Offset: at}}, time.Second, 4<<20)
		if err == nil {
			err = got[0].Err
		}
		if err != nil {
			return step.LogAppend{}, nil, fmt.Errorf("read what waits at %d: %w", at, err)
		}
		if err := folder.Reread(got[0].Records); err != nil {
			return step.LogAppend{}, nil, fmt.Errorf("read what waits at %d: %w", at, err)
		}
		at = max(at, got[0].Next)
	}
	a, ok := folder.(archiver)
	if !ok {
		return step.LogAppend{}, nil, fmt.Errorf("a %T cannot tell what waits", folder)
	}
	return a.Archive(), folder, nil
}

// ReadManifest reads what a snapshot holds.
func ReadManifest(dir string) (*Manifest, error) { return readManifest(dir) }

func readManifest(dir string) (*Manifest, error) {
	data, err := os.ReadFile(filepath.Join(dir, manifestName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is no snapshot, or one that was not finished: it has no %s", dir, manifestName)
	}
	if err != nil {
		return nil, fmt.Errorf("read the snapshot: %w", err)
	}
	m := &Manifest{}
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Join(dir, manifestName), err)
	}
	if m.Format > snapshotFormat {
		return nil, fmt.Errorf("snapshot %s has format %d, this program knows up to %d: use the newer program that wrote it", dir, m.Format, snapshotFormat)
	}
	return m, nil
}

// RestoreOptions say how a snapshot is restored.
type RestoreOptions struct {
	// Force restores also where owners run, who then claim again, and where the
	// log has lost records since, so that the state will have a gap.
	Force  bool
	DryRun bool
	// Partition restores one partition alone; -1: all.
	Partition int32
}

// ErrSnapshot says that a snapshot does not fit.
var ErrSnapshot = errors.New("the snapshot does not fit")

// Restore puts a snapshot's state of the processors into the store. The processors
// go on from there, silently up to their emission mark. Everything is checked
// before anything is written. It returns what it has restored.
func (o *Operator) Restore(ctx context.Context, ps []Processor, dir string, opt RestoreOptions, each func(SnapshotPart)) ([]SnapshotPart, error) {
	m, err := readManifest(dir)
	if err != nil {
		return nil, err
	}
	bases, err := state.NewBases(dir)
	if err != nil {
		return nil, err
	}
	type job struct {
		f    frame
		base *state.Base
		part SnapshotPart
	}
	var jobs []job
	var errs []error
	for _, p := range ps {
		i := slices.IndexFunc(m.Processors, func(t SnapshotTopic) bool { return t.Processor == p.Name })
		if i < 0 {
			errs = append(errs, fmt.Errorf("%s: %w: it is not in it", p.Name, ErrSnapshot))
			continue
		}
		if err := inUse(ctx, o.Client, p); err != nil && !opt.Force {
			errs = append(errs, fmt.Errorf("%w: stop them, or --force: they go on from the snapshot then", err))
		}
		for _, part := range m.Partitions {
			if part.Processor != p.Name || opt.Partition >= 0 && part.Partition != opt.Partition {
				continue
			}
			f, err := o.frame(ctx, p, part.Partition)
			if err == nil && f.partitions != m.Processors[i].Partitions {
				err = fmt.Errorf("%s: %w: it has %d partitions, the topic %d", p.Name, ErrSnapshot, m.Processors[i].Partitions, f.partitions)
			}
			var base *state.Base
			if err == nil {
				base, err = fitting(f, bases, part, opt.Force)
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
			jobs = append(jobs, job{f, base, part})
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	var done []SnapshotPart
	for _, j := range jobs {
		if !opt.DryRun {
			if err := o.restore(ctx, j.f, j.base, j.part); err != nil {
				return done, err
			}
			j.part.Restored = true
		}
		done = append(done, j.part)
		each(j.part)
	}
	return done, nil
}

// fitting reads a partition's base, and checks that it fits log and program.
func fitting(f frame, bases *state.Bases, part SnapshotPart, force bool) (*state.Base, error) {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%s/%d: %w: %s", f.p.Name, f.partition, ErrSnapshot, fmt.Sprintf(format, args...))
	}
	base, err := bases.Newest(f.tag())
	if err != nil {
		return nil, bad("%v", err)
	}
	if base == nil {
		return nil, bad("its file is missing")
	}
	fence, err := step.ParseFence(base.State.Fence)
	switch {
	case err != nil:
		return nil, bad("%v", err)
	case fence.LogID != f.logID:
		return nil, bad("it is of another log (%s, this one is %s)", fence.LogID, f.logID)
	case digest(base.State.Entities) != part.Digest:
		return nil, bad("its digest is %s, the manifest says %s", digest(base.State.Entities), part.Digest)
	case fence.FoldVersion > f.p.FoldVersion:
		return nil, bad("it is of fold version %d, this program has %d", fence.FoldVersion, f.p.FoldVersion)
	case fence.FoldVersion != f.p.FoldVersion && !fence.Released:
		return nil, bad("it is of fold version %d, taken from a running owner; this program has %d: rebuild instead", fence.FoldVersion, f.p.FoldVersion)
	case fence.Next > f.end:
		return nil, bad("it is ahead of the log (next %d, log end %d)", fence.Next, f.end)
	case fence.Next < f.start && !force:
		return nil, bad("the log has lost the records from %d to %d since; --force restores it with that gap, and silent", fence.Next, f.start)
	}
	return base, nil
}

func (o *Operator) restore(ctx context.Context, f frame, base *state.Base, part SnapshotPart) error {
	fence, err := step.ParseFence(base.State.Fence)
	if err != nil {
		return err
	}
	fence = byOperator(fence)
	if part.Mark >= 0 && fence.Voice.Silent == "" {
		fence.Voice = step.Voice{Word: step.WordMark, From: part.Mark}
	}
	st := base.State
	st.Fence = fence.String()
	for n := 0; ; n++ {
		raw, err := o.Store.Fence(ctx, f.tag())
		if err != nil {
			return err
		}
		outcome, err := replace(ctx, o.Store, f.tag(), f.p.Layout, raw, st)
		if err != nil {
			return err
		}
		if outcome == step.Applied {
			break
		}
		if n >= maxTries {
			return fmt.Errorf("%s/%d: its owner writes faster than it can be replaced: stop it and try again", f.p.Name, f.partition)
		}
	}
	held, err := o.Store.Dump(ctx, f.tag(), f.p.Layout)
	if err != nil {
		return err
	}
	if now, err := step.ParseFence(held.Fence); err == nil && (now.Next != fence.Next || now.KeyDone != "") {
		return nil // an owner has gone on from it
	}
	sortEntities(held.Entities)
	if got := digest(held.Entities); got != part.Digest {
		return fmt.Errorf("%s/%d: the store has digest %s after the restore, want %s", f.p.Name, f.partition, got, part.Digest)
	}
	return nil
}

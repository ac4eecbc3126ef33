package api

import "certctl/server/job"

// Job is a job.
type Job = job.Job

// OneJob names a job.
type OneJob struct {
	ID string `path:"id" maxLength:"64" doc:"id of the job"`
}

// JobQuery asks for a page of jobs.
type JobQuery struct {
	State         string `query:"state" maxLength:"20" doc:"only those in this state"`
	Kind          string `query:"kind" maxLength:"40" doc:"only those of this kind"`
	CertificateID string `query:"certificate_id" maxLength:"64" doc:"only those of this certificate"`
	After         string `query:"after" maxLength:"200" doc:"next of the page before"`
	Limit         int    `query:"limit" minimum:"1" maximum:"500" default:"100"`
}

// JobPage is a page of jobs, newest first.
type JobPage struct {
	Items []Job  `json:"items" nullable:"false"`
	Next  string `json:"next,omitempty" doc:"give it as after for the next page; absent on the last"`
}

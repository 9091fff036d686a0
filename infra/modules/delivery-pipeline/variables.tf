variable "platform" {
  description = "What stage 1 made: names, key, the bucket of access logs, boundary, alerts."
  type = object({
    name                     = string
    region                   = string
    account_id               = string
    kms_key_arn              = string
    logs_bucket              = string
    alerts_topic_arn         = string
    permissions_boundary_arn = optional(string)
  })
}

variable "source_code" {
  description = "Where commits come from: a CodeConnections connection that somebody has confirmed in the console, OWNER/REPOSITORY, branch."
  type = object({
    connection_arn = string
    repository     = string
    branch         = optional(string, "main")
  })
  validation {
    condition     = can(regex("^arn:aws[a-z-]*:(codeconnections|codestar-connections):[a-z0-9-]+:[0-9]{12}:connection/.+$", var.source_code.connection_arn))
    error_message = "source_code.connection_arn is arn:aws:codeconnections:REGION:ACCOUNT:connection/ID."
  }
  validation {
    condition     = can(regex("^[^/ ]+/[^ ]+$", var.source_code.repository))
    error_message = "source_code.repository is OWNER/REPOSITORY."
  }
}

variable "projects" {
  description = "Names of the CodeBuild projects by purpose: check (style, types, tests, gates, load, plans), image (builds and pushes), gate (judges the image), deploy (rolls out)."
  type        = map(string)
  validation {
    condition     = sort(keys(var.projects)) == tolist(["check", "deploy", "gate", "image"])
    error_message = "projects are check, deploy, gate and image."
  }
}

variable "needs_approval" {
  description = "True waits for somebody's word between gate and rollout."
  type        = bool
  default     = true
}

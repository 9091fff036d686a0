variable "name" {
  description = "Name of the rule, as in `nexus-small-glue-failed`."
  type        = string
  validation {
    condition     = length(var.name) <= 64
    error_message = "EventBridge takes rule names of at most 64 characters."
  }
}

variable "description" {
  description = "What somebody who is woken up should know first."
  type        = string
}

variable "runbook" {
  description = "Page of docs/runbooks/ that says what to do, without its ending."
  type        = string
}

variable "pattern" {
  description = "EventBridge pattern as JSON text."
  type        = string
  validation {
    condition     = can(jsondecode(var.pattern).source)
    error_message = "pattern is JSON and names at least a source."
  }
}

variable "topic_arn" {
  description = "Topic that hears of each event."
  type        = string
}

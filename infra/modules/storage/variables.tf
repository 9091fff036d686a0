variable "name" {
  description = "Prefix of every name."
  type        = string
}

variable "account_id" {
  description = "Account; part of the buckets' names, which are unique in the whole world."
  type        = string
}

variable "region" {
  description = "Region of the buckets; part of who may deliver logs."
  type        = string
}

variable "kms_key_arn" {
  description = "Key that encrypts data and models."
  type        = string
}

variable "keep_versions_days" {
  description = "Days that an overwritten or deleted object can still be brought back."
  type        = number
  default     = 30
  validation {
    condition     = var.keep_versions_days >= 1
    error_message = "keep_versions_days is at least 1."
  }
}

variable "log_days" {
  description = "Days that access logs are kept."
  type        = number
  default     = 365
  validation {
    condition     = var.log_days >= 30
    error_message = "keep access logs for at least 30 days: what happened is often asked later."
  }
}

variable "scratch_days" {
  description = "Days after which what jobs leave under `scratch/` is deleted."
  type        = number
  default     = 14
  validation {
    condition     = var.scratch_days >= 1
    error_message = "scratch_days is at least 1."
  }
}

variable "copies" {
  description = "Whether data and models are copied to the second region; a plan must know it before the second key exists."
  type        = bool
  default     = false
}

variable "replica_kms_key_arn" {
  description = "Key of the second region that the copies are encrypted with; needed where `copies` is true."
  type        = string
  default     = null
}

variable "permissions_boundary_arn" {
  description = "Ceiling of the role that copies; null sets none."
  type        = string
  default     = null
}

variable "force_destroy" {
  description = "Whether destroying a bucket also deletes everything in it."
  type        = bool
  default     = false
}

variable "alerts_topic_arn" {
  description = "Topic that hears when copies fall behind."
  type        = string
}

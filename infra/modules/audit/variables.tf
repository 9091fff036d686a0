variable "name" {
  description = "Prefix of every name."
  type        = string
}

variable "account_id" {
  description = "Account that is watched."
  type        = string
}

variable "region" {
  description = "Home region of the trail."
  type        = string
}

variable "kms_key_arn" {
  description = "Key that encrypts the trail."
  type        = string
}

variable "watched_bucket_arns" {
  description = "Buckets of which every read and write of an object is recorded; each record costs."
  type        = list(string)
  default     = []
}

variable "retention_days" {
  description = "Days that records are kept in the bucket."
  type        = number
  default     = 365
  validation {
    condition     = var.retention_days >= 90
    error_message = "keep the trail for at least 90 days: without a trail CloudTrail itself shows as much."
  }
}

variable "lock_days" {
  description = "Days in which nobody below the account's administrators can delete a record (object lock, governance); null locks nothing."
  type        = number
  default     = null
  validation {
    condition     = var.lock_days == null || try(var.lock_days >= 1, false)
    error_message = "lock_days is null or at least 1."
  }
}

variable "guardduty" {
  description = "Whether GuardDuty watches the account; set false where the organisation already does."
  type        = bool
  default     = false
}

variable "config" {
  description = "Whether AWS Config records what changes; set false where the organisation already does."
  type        = bool
  default     = false
}

variable "permissions_boundary_arn" {
  description = "Ceiling of the roles made here; null sets none."
  type        = string
  default     = null
}

variable "force_destroy" {
  description = "Whether destroying the bucket also deletes the records."
  type        = bool
  default     = false
}

variable "alerts_topic_arn" {
  description = "Topic that hears of what should not happen."
  type        = string
}

variable "name" {
  description = "Prefix of every name."
  type        = string
}

variable "account_id" {
  description = "Account whose backups these are."
  type        = string
}

variable "kms_key_arn" {
  description = "Key that encrypts the vault."
  type        = string
}

variable "keep_days" {
  description = "Days that a daily backup is kept."
  type        = number
  default     = 35
  validation {
    condition     = var.keep_days >= 1
    error_message = "keep_days is at least 1."
  }
}

variable "lock_min_days" {
  description = "Days in which no backup can be deleted by anybody who lacks the right to change the lock; null locks nothing."
  type        = number
  default     = null
  validation {
    condition     = var.lock_min_days == null || try(var.lock_min_days >= 1 && var.lock_min_days <= var.keep_days, false)
    error_message = "lock_min_days is null, or between 1 and keep_days: a plan may not promise less than the lock."
  }
}

variable "copies" {
  description = "Whether backups are copied to a second region; a plan must know it before that vault exists."
  type        = bool
  default     = false
}

variable "copy_vault_arn" {
  description = "Vault in the second region that receives the copies; needed where `copies` is true."
  type        = string
  default     = null
}

variable "permissions_boundary_arn" {
  description = "Ceiling of the role made here; null sets none."
  type        = string
  default     = null
}

variable "force_destroy" {
  description = "Whether destroying the vault also deletes the backups."
  type        = bool
  default     = false
}

variable "alerts_topic_arn" {
  description = "Topic that hears of failed backups."
  type        = string
}

variable "name" {
  description = "Prefix of every name; the database takes it with underscores."
  type        = string
}

variable "kms_key_arn" {
  description = "Key that encrypts the catalog, logs, bookmarks and results."
  type        = string
}

variable "data_bucket" {
  description = "Bucket with corpora and artifacts; Athena's results go to its `scratch/`."
  type        = string
}

variable "role_arn" {
  description = "Role that the job runs under."
  type        = string
}

variable "vpc_id" {
  description = "Network that the job's workers stand in."
  type        = string
}

variable "subnet_id" {
  description = "Private subnet of the workers. Glue takes one: its zone is the job's zone."
  type        = string
}

variable "availability_zone" {
  description = "Zone of that subnet."
  type        = string
}

variable "worker_type" {
  description = "Size of one worker: G.1X is 4 vCPU and 16 GiB, each step doubles it."
  type        = string
  default     = "G.2X"
  validation {
    condition     = contains(["G.1X", "G.2X", "G.4X", "G.8X"], var.worker_type)
    error_message = "worker_type is G.1X, G.2X, G.4X or G.8X."
  }
}

variable "max_workers" {
  description = "Workers that a run never exceeds; with auto scaling a run takes what it needs."
  type        = number
  default     = 10
  validation {
    condition     = var.max_workers >= 2 && var.max_workers <= 299
    error_message = "Glue takes 2 to 299 workers: one of them is the driver."
  }
}

variable "timeout_minutes" {
  description = "Minutes after which a run is stopped: a hanging job otherwise costs for two days."
  type        = number
  default     = 480
  validation {
    condition     = var.timeout_minutes >= 1 && var.timeout_minutes <= 2880
    error_message = "timeout_minutes is 1 to 2880."
  }
}

variable "encrypt_account_catalog" {
  description = "Whether to encrypt the account's catalog in this region with the key: one setting for all databases, so false where somebody else has set it."
  type        = bool
  default     = true
}

variable "alerts_topic_arn" {
  description = "Topic that hears of failed runs."
  type        = string
}

variable "name" {
  description = "Prefix of every name, as in `nexus-small`; the same in all stages."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.name))
    error_message = "name is 3 to 20 characters: lower-case letters, digits and inner hyphens."
  }
}

variable "account_id" {
  description = "Account that everything is made in."
  type        = string
  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id))
    error_message = "account_id is 12 digits."
  }
}

variable "region" {
  description = "Region that everything is made in."
  type        = string
}

variable "availability_zones" {
  description = "Two or three zones by full name; the first one also holds what needs only one."
  type        = list(string)
  validation {
    condition     = alltrue([for one in var.availability_zones : startswith(one, var.region)])
    error_message = "every zone's name begins with the region's."
  }
}

variable "alert_emails" {
  description = "Addresses that receive every alert."
  type        = set(string)
  default     = []
}

variable "tags" {
  description = "Further tags of every resource, as for cost allocation."
  type        = map(string)
  default     = {}
}

variable "network" {
  description = "Addresses, ways out and endpoints; see modules/network."
  type = object({
    vpc_cidr            = optional(string, "10.20.0.0/16")
    nat                 = optional(string, "one")
    interface_endpoints = optional(set(string), [])
    flow_log_days       = optional(number, 365)
  })
  default = {}
}

variable "storage" {
  description = "How long old versions, logs and scratch files are kept, in days; see modules/storage."
  type = object({
    keep_versions_days = optional(number, 30)
    log_days           = optional(number, 365)
    scratch_days       = optional(number, 14)
  })
  default = {}
}

variable "replica_region" {
  description = "Second region that receives copies of data, models and backups; null copies nothing."
  type        = string
  default     = null
  validation {
    condition     = var.replica_region != var.region
    error_message = "replica_region is another region than region: a copy beside the original falls with it."
  }
}

variable "security" {
  description = "Ceiling of roles, trail, watchers and GitHub's way in; see modules/boundary, audit and identity."
  type = object({
    boundary      = optional(bool, true)
    trail         = optional(bool, true)
    trail_days    = optional(number, 365)
    lock_days     = optional(number)
    watch_objects = optional(bool, false)
    guardduty     = optional(bool, false)
    config        = optional(bool, false)
    github        = optional(object({ repository = string, subjects = optional(list(string), ["ref:refs/heads/main"]) }))
  })
  default = {}
}

variable "budget" {
  description = "What a month may cost in US dollars, what it is counted by, and unusual spending a day; see modules/budget."
  type = object({
    usd_per_month = number
    cost_tag      = optional(object({ key = string, value = string }))
    anomaly_usd   = optional(number, 50)
  })
}

variable "jobs" {
  description = "Sizes of data and training jobs; see modules/catalog, emr, batch and sagemaker. `image_tag` names the image that Batch runs."
  type = object({
    image_tag               = optional(string, "0.1.0")
    encrypt_account_catalog = optional(bool, true)
    glue_worker_type        = optional(string, "G.2X")
    glue_max_workers        = optional(number, 10)
    emr_max_vcpus           = optional(number, 80)
    batch_queues = optional(map(object({
      instance_types = list(string)
      max_vcpus      = number
      spot           = optional(bool, true)
      gpu            = optional(bool, false)
      disk_gib       = optional(number, 200)
    })))
    pipeline_file = optional(string)
    mlflow        = optional(bool, false)
  })
  default = {}
}

variable "backup" {
  description = "Days that backups are kept, and in which they are locked; see modules/backup."
  type = object({
    keep_days     = optional(number, 35)
    lock_min_days = optional(number)
  })
  default = {}
}

variable "devbox" {
  description = "A development machine with a GPU; null makes none. See modules/devbox."
  type = object({
    instance_type = optional(string, "g6.xlarge")
    disk_gib      = optional(number, 200)
    idle_minutes  = optional(number, 60)
    stop_at       = optional(string, "20:00")
  })
  default = null
}

variable "force_destroy" {
  description = "Whether destroying also deletes data, models, images, records and backups."
  type        = bool
  default     = false
}

variable "name" {
  description = "Prefix of every name."
  type        = string
}

variable "vpc_id" {
  description = "Network of the machines."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets of the machines; more zones find capacity more often."
  type        = list(string)
}

variable "kms_key_arn" {
  description = "Key that encrypts disks and logs."
  type        = string
}

variable "instance_profile_arn" {
  description = "Profile that the machines carry."
  type        = string
}

variable "job_role_arn" {
  description = "Role that containers work under."
  type        = string
}

variable "execution_role_arn" {
  description = "Role that pulls images and writes logs."
  type        = string
}

variable "image" {
  description = "Image of the data stage, with its tag."
  type        = string
}

variable "queues" {
  description = "Queue → its machines. `max_vcpus` is the ceiling of the bill; nothing runs while the queue is empty."
  type = map(object({
    instance_types = list(string)
    max_vcpus      = number
    spot           = optional(bool, true)
    gpu            = optional(bool, false)
    disk_gib       = optional(number, 200)
  }))
  nullable = false
  default = {
    cpu = { instance_types = ["c7i", "m7i", "c6i", "m6i"], max_vcpus = 128, disk_gib = 500 }
    gpu = { instance_types = ["g6", "g5"], max_vcpus = 16, gpu = true }
  }
  validation {
    condition = alltrue([
      for one in values(var.queues) : one.max_vcpus >= 1 && one.disk_gib >= 30 && length(one.instance_types) > 0
    ])
    error_message = "each queue has instance types, at least 1 vCPU and 30 GiB of disk: the machine's image fills that."
  }
}

variable "log_days" {
  description = "Days that the jobs' logs are kept."
  type        = number
  default     = 365
}

variable "alerts_topic_arn" {
  description = "Topic that hears of failed jobs."
  type        = string
}

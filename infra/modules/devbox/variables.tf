variable "name" {
  description = "Prefix of every name."
  type        = string
}

variable "account_id" {
  description = "Account of the box."
  type        = string
}

variable "region" {
  description = "Region of the box."
  type        = string
}

variable "vpc_id" {
  description = "Network of the box."
  type        = string
}

variable "subnet_id" {
  description = "Private subnet of the box."
  type        = string
}

variable "kms_key_arn" {
  description = "Key that encrypts the disk."
  type        = string
}

variable "bucket_arns" {
  description = "Buckets that the box reads and writes."
  type        = list(string)
}

variable "instance_type" {
  description = "Type of machine; g6.xlarge has one L4 with 24 GB."
  type        = string
  default     = "g6.xlarge"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]*\\.[a-z0-9]+$", var.instance_type))
    error_message = "instance_type looks like g6.xlarge."
  }
}

variable "disk_gib" {
  description = "Size of the disk in GiB; it is kept while the box is stopped."
  type        = number
  default     = 200
  validation {
    condition     = var.disk_gib >= 100 && var.disk_gib <= 16384
    error_message = "disk_gib is 100 to 16384: drivers and CUDA fill 60."
  }
}

variable "image_parameter" {
  description = "AWS' public parameter that holds the newest image; it is resolved when the box is made."
  type        = string
  default     = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
}

variable "idle_minutes" {
  description = "Minutes of a quiet CPU after which the box is stopped."
  type        = number
  default     = 60
  validation {
    condition     = var.idle_minutes >= 15 && var.idle_minutes % 5 == 0
    error_message = "idle_minutes is at least 15 and a multiple of 5."
  }
}

variable "stop_at" {
  description = "Hour and minute, UTC, at which the box is stopped every day, as `20:00`."
  type        = string
  default     = "20:00"
  validation {
    condition     = can(regex("^([01][0-9]|2[0-3]):[0-5][0-9]$", var.stop_at))
    error_message = "stop_at looks like 20:00."
  }
}

variable "permissions_boundary_arn" {
  description = "Ceiling of the roles made here; null sets none."
  type        = string
  default     = null
}

variable "alerts_topic_arn" {
  description = "Topic that hears when the box was stopped."
  type        = string
}

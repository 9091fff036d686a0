variable "name" {
  description = "Prefix of every name."
  type        = string
}

variable "vpc_id" {
  description = "Network of the workers."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets of the workers; two zones find capacity more often."
  type        = list(string)
}

variable "release" {
  description = "Release of EMR; 7.9.0 has Spark 3.5.5."
  type        = string
  default     = "emr-7.9.0"
  validation {
    condition     = can(regex("^emr-7\\.[0-9]+\\.[0-9]+$", var.release))
    error_message = "release is emr-7.x.y: the data stage runs on Spark 3.5."
  }
}

variable "max_vcpus" {
  description = "Virtual CPUs that all jobs together never exceed: the ceiling of the bill."
  type        = number
  default     = 80
  validation {
    condition     = var.max_vcpus >= 4
    error_message = "max_vcpus is at least 4: one driver."
  }
}

variable "idle_minutes" {
  description = "Minutes without a job after which the application stops and costs nothing."
  type        = number
  default     = 5
  validation {
    condition     = var.idle_minutes >= 1 && var.idle_minutes <= 10080
    error_message = "EMR Serverless accepts 1 to 10080 minutes."
  }
}

variable "alerts_topic_arn" {
  description = "Topic that hears of failed jobs."
  type        = string
}

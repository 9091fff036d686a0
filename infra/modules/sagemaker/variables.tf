variable "name" {
  description = "Prefix of every name."
  type        = string
}

variable "account_id" {
  description = "Account of the tracking server."
  type        = string
}

variable "kms_key_arn" {
  description = "Key of the buckets."
  type        = string
}

variable "vpc_id" {
  description = "Network of training machines."
  type        = string
}

variable "role_arn" {
  description = "Role of jobs and of the pipeline."
  type        = string
}

variable "models_bucket" {
  description = "Bucket for the tracking server's artifacts, below `mlflow/`."
  type        = string
}

variable "pipeline_file" {
  description = "File with the pipeline's definition as JSON, as rendered from a recipe; null makes no pipeline."
  type        = string
  default     = null
  validation {
    condition     = var.pipeline_file == null || can(jsondecode(file(var.pipeline_file)).Steps)
    error_message = "pipeline_file is no readable JSON file with Steps."
  }
}

variable "mlflow" {
  description = "Whether to run a managed MLflow server; it costs by the hour, used or not."
  type        = bool
  default     = false
}

variable "permissions_boundary_arn" {
  description = "Ceiling of the roles made here; null sets none."
  type        = string
  default     = null
}

variable "alerts_topic_arn" {
  description = "Topic that hears of failed trainings and pipelines."
  type        = string
}

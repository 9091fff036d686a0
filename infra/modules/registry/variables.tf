variable "name" {
  description = "Prefix of every repository, as in `nexus-small/train`."
  type        = string
}

variable "kms_key_arn" {
  description = "Key that encrypts the images."
  type        = string
}

variable "repositories" {
  description = "Images of the platform."
  type        = set(string)
  default     = ["train", "serve", "spark"]
  validation {
    condition     = alltrue([for one in var.repositories : can(regex("^[a-z][a-z0-9-]*$", one))])
    error_message = "a repository's name is lower-case letters, digits and hyphens."
  }
}

variable "keep_images" {
  description = "Tagged images that are kept in each repository; older ones are deleted. A rollback needs at least two."
  type        = number
  default     = 20
  validation {
    condition     = var.keep_images >= 2
    error_message = "keep at least two images: the running one and the one to go back to."
  }
}

variable "force_delete" {
  description = "Whether destroying a repository also deletes its images."
  type        = bool
  default     = false
}

variable "alerts_topic_arn" {
  description = "Topic that hears of critical findings in an image."
  type        = string
}

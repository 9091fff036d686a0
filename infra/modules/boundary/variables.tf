variable "name" {
  description = "Prefix of every name."
  type        = string
}

variable "regions" {
  description = "Regions in which roles may act."
  type        = list(string)
  validation {
    condition     = length(var.regions) > 0
    error_message = "name at least one region: a boundary without one would forbid everything."
  }
}

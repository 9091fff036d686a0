output "state" {
  description = "Where the states lie."
  value = {
    name        = var.name
    account_id  = var.account_id
    region      = var.region
    bucket      = module.state.bucket
    kms_key_arn = module.kms.key_arn
  }
}

output "backend_hcl" {
  description = "Text of the file that later stages take as `terraform init -backend-config=FILE -backend-config=key=STAGE.tfstate`."
  value       = <<-EOT
    bucket       = "${module.state.bucket}"
    region       = "${var.region}"
    encrypt      = true
    kms_key_id   = "${module.kms.key_arn}"
    use_lockfile = true
  EOT
}

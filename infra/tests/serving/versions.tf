# Nothing of its own: the runs of this folder's *.tftest.hcl plan and apply the modules, so that one start of the
# provider serves all of them. From here: terraform init && terraform test
terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
}

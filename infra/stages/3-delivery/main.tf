# From a commit to the running service: builds, the gate of the image's scan, blue/green with the alarms of stage 2.

locals {
  platform   = jsondecode(file(var.platform_file))
  serving    = jsondecode(file(var.serving_file))
  repository = local.platform.ecr_repository_urls["serve"]
  # ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME
  repository_name = join("/", slice(split("/", local.repository), 1, length(split("/", local.repository))))
  repository_arn  = "arn:aws:ecr:${local.platform.region}:${local.platform.account_id}:repository/${local.repository_name}"

  builds = {
    check = {
      description  = "Style, types, contracts and all tests: make check, make test."
      compute_type = "BUILD_GENERAL1_LARGE" # tests load models: 8 GB of memory and more
      environment  = {}
    }
    image = {
      description   = "Builds containers/serve and pushes it, named by its commit."
      builds_images = true
      environment   = { REPOSITORY = local.repository }
      pushes_to     = [local.repository_arn]
    }
    gate = {
      description  = "Judges the image's scan and writes what is rolled out."
      compute_type = "BUILD_GENERAL1_SMALL"
      environment = {
        REPOSITORY        = local.repository_name
        MAX_SEVERITY      = var.max_severity
        TASK_FAMILY       = local.serving.task_family
        CAPACITY_PROVIDER = local.serving.capacity_provider
        CONTAINER         = local.serving.container_name
        PORT              = tostring(local.serving.container_port)
      }
      reads_scans_of            = [local.repository_arn]
      reads_task_definitions_of = [local.serving.task_family]
    }
  }
}

module "build" {
  source                    = "../../modules/delivery-build"
  for_each                  = local.builds
  platform                  = local.platform
  purpose                   = each.key
  description               = each.value.description
  buildspec                 = "infra/delivery/buildspecs/${each.key}.yml"
  artifact_bucket_arn       = module.pipeline.artifact_bucket_arn
  environment               = each.value.environment
  builds_images             = try(each.value.builds_images, false)
  pushes_to                 = try(each.value.pushes_to, [])
  reads_scans_of            = try(each.value.reads_scans_of, [])
  reads_task_definitions_of = try(each.value.reads_task_definitions_of, [])
  compute_type              = try(each.value.compute_type, "BUILD_GENERAL1_MEDIUM")
  timeout_minutes           = each.key == "check" ? 120 : 60
  log_retention_days        = var.log_retention_days
}

module "rollout" {
  source              = "../../modules/delivery-rollout"
  platform            = local.platform
  serving             = local.serving
  artifact_bucket_arn = module.pipeline.artifact_bucket_arn
  canary              = var.canary
  test_minutes        = var.test_minutes
  bake_minutes        = var.bake_minutes
}

module "pipeline" {
  source         = "../../modules/delivery-pipeline"
  platform       = local.platform
  source_code    = var.source_code
  projects       = { for purpose, one in module.build : purpose => one.name }
  task_role_arns = values(local.serving.role_arns)
  needs_approval = var.needs_approval
  rollout = {
    application_name       = module.rollout.application_name
    deployment_group_name  = module.rollout.deployment_group_name
    deployment_config_name = module.rollout.deployment_config_name
  }
}

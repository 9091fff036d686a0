# From a packaged model in the models bucket to an API that answers: capacity, service, balancer, firewall, scaling.

locals {
  platform = jsondecode(file(var.platform_file))
  is_gpu   = var.engine.kind == "vllm"
}

module "gpu" {
  source             = "../../modules/serving-gpu-capacity"
  count              = local.is_gpu ? 1 : 0
  platform           = local.platform
  instance_type      = var.gpu.instance_type
  max_instances      = var.gpu.max_instances
  warm_instances     = var.gpu.warm_instances
  disk               = { gib = var.gpu.disk_gib }
  https_egress_cidrs = var.network.https_egress_cidrs
}

module "cluster" {
  source                  = "../../modules/serving-cluster"
  platform                = local.platform
  capacity_provider_names = module.gpu[*].capacity_provider_name
  log_retention_days      = var.log_retention_days
}

module "balancer" {
  source                 = "../../modules/serving-balancer"
  platform               = local.platform
  certificate_arn        = var.certificate_arn
  is_internal            = var.network.is_internal
  client_cidrs           = var.network.client_cidrs
  test_cidrs             = var.network.test_cidrs
  longest_answer_seconds = var.longest_answer_seconds
  server_error_percent   = var.objectives.error_percent
  is_deletion_protected  = var.is_deletion_protected
}

module "firewall" {
  source                    = "../../modules/serving-firewall"
  platform                  = local.platform
  balancer_arn              = module.balancer.arn
  requests_per_five_minutes = var.network.requests_per_five_minutes
  log_retention_days        = var.log_retention_days
}

module "service" {
  source   = "../../modules/serving-service"
  platform = local.platform
  cluster = {
    arn               = module.cluster.arn
    capacity_provider = local.is_gpu ? "${local.platform.name}-gpu" : "FARGATE"
  }
  balancer = {
    security_group_id = module.balancer.security_group_id
    target_group_arn  = module.balancer.target_groups["blue"].arn
  }
  gateway_image          = "${local.platform.ecr_repository_urls["serve"]}${var.gateway_version}"
  engine                 = var.engine
  model                  = var.model
  size                   = merge(var.size, { tasks = var.tasks.min })
  secrets                = var.secrets
  database               = length(module.database) == 0 ? null : { url = module.database[0].url, connect_arn = module.database[0].connect_arn }
  objectives             = var.objectives
  longest_answer_seconds = var.longest_answer_seconds
  tracing_image          = var.tracing_image
  https_egress_cidrs     = var.network.https_egress_cidrs
  log_retention_days     = var.log_retention_days

  # A service can name a provider, and be put behind a target group, only once they hang together.
  depends_on = [module.cluster, module.balancer]
}

module "scaling" {
  source              = "../../modules/serving-scaling"
  platform            = local.platform
  cluster_name        = module.cluster.name
  service_name        = module.service.name
  balancer_arn_suffix = module.balancer.arn_suffix
  tasks               = var.tasks
  requests_per_task   = coalesce(var.requests_per_task, ceil(0.75 * var.engine.max_running))
  first_token_seconds = var.objectives.first_token_seconds
  schedule            = var.schedule
}

module "objectives" {
  source       = "../../modules/serving-objectives"
  platform     = local.platform
  cluster_name = module.cluster.name
  service_name = module.service.name
  objectives   = var.objectives
  alarm_names  = concat(module.balancer.alarm_names, module.service.alarm_names)
}

module "database" {
  source                   = "../../modules/serving-database"
  count                    = var.database == null ? 0 : 1
  platform                 = local.platform
  client_security_group_id = module.service.security_group_id
  capacity_units           = var.database.capacity_units
  instances                = var.database.instances
  backup_days              = var.database.backup_days
  is_deletion_protected    = var.is_deletion_protected
  log_retention_days       = var.log_retention_days
}
